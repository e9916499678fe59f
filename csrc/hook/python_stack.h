// The Python stack and the nn.Module path of an allocation, as one 32-bit id, without the GIL.
//
// Owner: any thread may call take(); the rest is called under the GIL. A thread's own Python frames
// are frozen while it is in C, so reading them needs no lock. Invariants:
//   - take() takes no reference, never allocates a Python object, never waits for the GIL (it may
//     run under torch's device lock) and reads only frames of the calling thread;
//   - a stack is known by a hash of what its frames point to; code objects and modules whose
//     address is in the table are watched until they die (object_identity.h), so a new object at a
//     reused address never meets an old entry;
//   - text is written before take() returns its id for the first time;
//   - a table outlives its recording: threads may still be in take() when that has stopped.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hook/stack_cache.h"
#include "record/spool.h"

using PyObject = struct _object;

namespace memtrace {

// How names reach text.log. Called under the table's own lock, mostly without the GIL: it must
// never take the GIL and never call back into the table.
class TextSink {
 public:
  virtual uint32_t intern(std::string_view utf8) noexcept = 0;
  virtual uint32_t next_id(TextKind kind) noexcept = 0; // of TextKind::stack or module
  virtual void text(TextKind kind, uint32_t id, const void* payload, size_t bytes) noexcept = 0;
  virtual void lose(Loss kind) noexcept = 0; // lock-free: the hot path calls it for a cut stack

 protected:
  ~TextSink() = default;
};

class StackTable {
 public:
  // The table and the sink live for as long as a thread may be in take(). `runner_prefixes` are
  // path prefixes: frames of such files, and of runpy between them, are left out at the outer end
  // of every stack.
  static StackTable* create(TextSink& sink, std::vector<std::string> runner_prefixes = {});

  ~StackTable();
  StackTable(const StackTable&) = delete;
  StackTable& operator=(const StackTable&) = delete;

  // This thread's stack id now; 0: no Python frames, or Python is not there any more. Hot.
  uint32_t take() noexcept;

  // Modules seen outermost in some stack since the last call. Any thread, no GIL needed.
  std::vector<uint32_t> take_new_roots();
  // True when take_new_roots() has something: one relaxed load, to poll from a hot place.
  bool has_new_roots() const noexcept { return has_new_roots_.load(std::memory_order_relaxed); }

  // Under the GIL. A new reference to the module behind an id, nullptr (no exception set) when it
  // has died. Safe: its death is watched, and a module in the middle of dying has no references
  // left.
  PyObject* module_object(uint32_t module);
  // Under the GIL. The id of a module, also of one that no stack has shown; writes its text. 0: it
  // is not a module whose death can be watched.
  uint32_t module_id(PyObject* module);
  // Likewise of one that is called by no other: for take_new_roots() as if a stack had shown it, as
  // one that is cut does not.
  uint32_t root_id(PyObject* module);

  static constexpr uint32_t kMaxFrames = 512; // innermost are kept; what is cut is counted as lost

 private:
  struct Tables;
  StackTable(TextSink& sink, std::vector<std::string> runner_prefixes);
  uint32_t first_sight(const void* innermost, StackHash hash) noexcept;

  StackCache stacks_;
  std::atomic<bool> has_new_roots_{false};
  TextSink& sink_;
  std::unique_ptr<Tables> tables_;
};

// All under the GIL; each may be called again. install_code_identity() compares the walk with
// Python's own frames first: false, with `reason` filled, when this interpreter is not laid out as
// expected; then take() gives 0 everywhere.
bool install_code_identity(std::string& reason);
// `module_class` is torch.nn.Module: its instances' calls are told by their code.
bool install_module_identity(PyObject* module_class, std::string& reason);
// Puts all slots back. Tables stay valid, and give 0 until code identity is installed again.
void uninstall_identity();

} // namespace memtrace
