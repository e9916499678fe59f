#include "hook/python_frame.h"

#include "hook/code_text.h"
#include "hook/object_identity.h"
#include "hook/python_identity.h"
#include "hook/python_stack.h"
#include "hook/walk_gate.h"

#include <mutex>
#include <unordered_map>
#include <utility>

namespace memtrace {
namespace {

constexpr uint64_t kKeyStep = 0xD6E8FEB86659FD93ULL;
constexpr uint64_t kCheckStep = 0xA0761D6478BD642FULL;
constexpr StackHash kNoFrames{0x243F6A8885A308D3ULL, 0x13198A2E03707344ULL};

// Two hashes of one dependent multiplication per word each: no slower than following the frames.
// The salt goes in where the next multiplication spreads it.
[[gnu::always_inline]] inline void mix(StackHash& hash, uint64_t word, uint64_t salt = 0) noexcept {
  hash.key = (hash.key + salt) * kKeyStep + word;
  hash.check = (hash.check ^ word) * kCheckStep;
}

// Of frames and those around them. Each half depends one to one on the half around it: bits lost
// here would be lost anew at each call inside another.
[[gnu::always_inline]] inline StackHash joined(StackHash inner, StackHash around) noexcept {
  return {around.key * kCheckStep + inner.key, around.check * kKeyStep ^ inner.check};
}

struct WalkedFrames {
  StackHash hash;
  uint32_t count; // over kMaxFrames: there are more
};

// Takes a frame into the hash of those inside it.
[[gnu::always_inline]] inline void mix_frame(StackHash& hash, const RawFrame* frame,
                                             const void* module_call) noexcept {
  const void* const code = frame_code(frame);
  if (code == module_call) {
    const PyObject* const self = first_local(frame);
    mix(hash, reinterpret_cast<uintptr_t>(self), salt(self));
  }
  mix(hash, frame_place(frame), salt(code));
}

inline const void* module_call_code() noexcept {
  return module_calls().entry.load(std::memory_order_relaxed);
}

// From a frame (not null) outwards to the outermost one.
[[gnu::noinline]] WalkedFrames walk_to_outermost(const RawFrame* frame) noexcept {
  constexpr uint32_t kAtOnce = 4; // the limit is looked at once for so many
  static_assert(StackTable::kMaxFrames % kAtOnce == 0);
  const void* const module_call = module_call_code();
  StackHash hash = kNoFrames;
  for (uint32_t count = 0; count < StackTable::kMaxFrames; count += kAtOnce) {
#pragma GCC unroll 4
    for (uint32_t i = 1; i <= kAtOnce; ++i) {
      mix_frame(hash, frame, module_call);
      frame = outer_frame(frame);
      if (!frame)
        return {hash, count + i};
    }
  }
  return {hash, StackTable::kMaxFrames + 1};
}

void find_frames_around(FrozenFrames::Call& call) noexcept;

// From a frame (not null) outwards; `call` is the innermost call of a module, or stands for none.
// Few frames are inside it, so the loop is short.
[[gnu::always_inline]] inline WalkedFrames walk(const RawFrame* frame,
                                                FrozenFrames::Call& call) noexcept {
  const void* const caller = call.caller;
  if (!caller)
    return walk_to_outermost(frame);
  const void* const module_call = module_call_code();
  StackHash hash = kNoFrames;
  uint32_t count = 0;
#pragma GCC unroll 1
  while (true) {
    mix_frame(hash, frame, module_call);
    frame = outer_frame(frame);
    ++count;
    if (frame == caller)
      break;
    // The call is another greenlet's, or far out.
    if (!frame || count == StackTable::kMaxFrames) [[unlikely]]
      return {hash, count + (frame ? 1 : 0)};
  }
  if (call.frames == 0)
    find_frames_around(call);
  return {joined(hash, call.hash), count + call.frames};
}

// The frames around a call, which stand still: walked once.
[[gnu::noinline]] void find_frames_around(FrozenFrames::Call& call) noexcept {
  const auto [hash, count] = walk(static_cast<const RawFrame*>(call.caller), *(&call - 1));
  call.hash = hash;
  call.frames = count;
}

} // namespace

// What the slow path knows, under one lock for all tables (python_identity.h).
struct StackTable::Tables {
  enum class Origin : uint8_t { program, runner, runpy };
  struct CodeText {
    uint64_t number; // of the code object at this address when the text was made
    uint32_t function, file;
    Origin origin;
  };
  struct Module {
    uint64_t number;
    uint32_t id;
    bool root;
  };
  struct Instance {
    const PyObject* object;
    uint64_t number;
  };

  explicit Tables(TextSink& to, std::vector<std::string> prefixes)
      : sink(to), runner_prefixes(std::move(prefixes)) {}

  TextSink& sink;
  const std::vector<std::string> runner_prefixes;
  StackCache contents; // hash of the text -> id: equal text gets one id
  std::unordered_map<const void*, CodeText> codes;
  std::unordered_map<const void*, Module> modules;
  std::unordered_map<uint32_t, Instance> instances; // by module id
  size_t prune_instances_at = 4096;
  std::vector<uint32_t> new_roots;
  // Of the stack in hand.
  std::vector<StackFrame> frames;
  std::vector<Origin> origins;

  const CodeText& text_of(const PyObject* code);
  Module* module_of(const PyObject* object);
  void read(const RawFrame* innermost);
  void drop_runner() noexcept;
  StackHash content_hash() const noexcept;
};

const StackTable::Tables::CodeText& StackTable::Tables::text_of(const PyObject* code) {
  const uint64_t number = watch_code(code);
  CodeText& text = codes[code];
  if (text.number == number)
    return text;
  const std::string file = file_name(code);
  text.origin = Origin::program;
  if (file == "<frozen runpy>" || file.ends_with("/runpy.py"))
    text.origin = Origin::runpy;
  for (const std::string& prefix : runner_prefixes)
    if (file.starts_with(prefix))
      text.origin = Origin::runner;
  text.function = sink.intern(function_name(code));
  text.file = sink.intern(file);
  text.number = number;
  return text;
}

StackTable::Tables::Module* StackTable::Tables::module_of(const PyObject* object) {
  const uint64_t number = object ? watch_instance(object) : 0;
  if (number == 0)
    return nullptr;
  Module& module = modules[object];
  if (module.number == number)
    return &module;
  if (instances.size() >= prune_instances_at) {
    std::erase_if(instances, [](const auto& entry) {
      return !is_watched(entry.second.object, entry.second.number);
    });
    prune_instances_at = instances.size() * 2 + 4096;
  }
  const ModuleText text{sink.intern(Py_TYPE(object)->tp_name), 0,
                        reinterpret_cast<uintptr_t>(object)};
  const uint32_t id = sink.next_id(TextKind::module);
  sink.text(TextKind::module, id, &text, sizeof text);
  instances[id] = {object, number};
  module = {number, id, false};
  return &module;
}

// Fills `frames`, innermost first. torch's own frames of Module.__call__ are left out; the module
// goes to the frame that they called, normally its forward().
void StackTable::Tables::read(const RawFrame* innermost) {
  frames.clear();
  origins.clear();
  const ModuleCalls& calls = module_calls();
  bool called_here = false; // the last frame in `frames` was called by the module call under way
  Module* outermost = nullptr;
  uint32_t left = kMaxFrames;
  const RawFrame* frame = innermost;
  for (; frame && left > 0; frame = outer_frame(frame), --left) {
    const auto* code = static_cast<const PyObject*>(frame_code(frame));
    if (!code || Py_TYPE(code) != &PyCode_Type)
      continue;
    if (!is_visible(frame)) {
      watch_code(code); // it is in the hash
      continue;
    }
    if (calls.is_plumbing(code))
      continue;
    Module* module = nullptr;
    if (calls.is_module_call(code)) {
      module = module_of(first_local(frame));
      if (module)
        outermost = module;
      if (called_here) {
        if (module)
          frames.back().module = module->id;
        called_here = false;
        continue;
      }
    }
    // A module call that called no Python frame is shown itself.
    const CodeText& text = text_of(code);
    const int line = line_at(code, frame_offset(frame));
    frames.push_back(
        {text.function, text.file, static_cast<uint32_t>(line), module ? module->id : 0});
    origins.push_back(text.origin);
    called_here = !calls.is_module_call(code);
  }
  if (outermost && !outermost->root && !frame) {
    outermost->root = true;
    new_roots.push_back(outermost->id);
  }
}

// The outer end as far as it is the runner's and runpy's, when the runner is in it at all.
void StackTable::Tables::drop_runner() noexcept {
  size_t kept = frames.size();
  bool runner = false;
  for (; kept > 0 && origins[kept - 1] != Origin::program; --kept)
    runner = runner || origins[kept - 1] == Origin::runner;
  if (runner)
    frames.resize(kept);
}

StackHash StackTable::Tables::content_hash() const noexcept {
  StackHash hash{frames.size(), ~frames.size()};
  for (const StackFrame& frame : frames) {
    mix(hash, frame.function | static_cast<uint64_t>(frame.file) << 32);
    mix(hash, frame.line | static_cast<uint64_t>(frame.module) << 32);
  }
  return hash;
}

StackTable* StackTable::create(TextSink& sink, std::vector<std::string> runner_prefixes) {
  return new StackTable(sink, std::move(runner_prefixes));
}

StackTable::StackTable(TextSink& sink, std::vector<std::string> runner_prefixes)
    : sink_(sink), tables_(std::make_unique<Tables>(sink, std::move(runner_prefixes))) {}

StackTable::~StackTable() = default;

uint32_t StackTable::take() noexcept {
  const WalkScope scope;
  if (!scope)
    return 0;
  FrozenFrames::Call& call = *scope.frozen().innermost;
  // Of a call that is under way it is known; asking for it leads through two libraries.
  auto* const thread =
      static_cast<PyThreadState*>(call.thread ? call.thread : PyGILState_GetThisThreadState());
  if (!thread)
    return 0;
  const RawFrame* const innermost = innermost_frame(thread);
  if (!innermost)
    return 0;

  const auto [hash, count] = walk(innermost, call);
  if (count > kMaxFrames) [[unlikely]]
    sink_.lose(Loss::stack_too_deep);

  if (const uint32_t id = stacks_.find(hash)) [[likely]]
    return id;
  return first_sight(innermost, hash);
}

uint32_t StackTable::first_sight(const void* innermost, StackHash hash) noexcept {
  const std::lock_guard lock(g_first_sight);
  try {
    if (const uint32_t id = stacks_.find(hash)) // another thread was first
      return id;
    Tables& tables = *tables_;
    tables.read(static_cast<const RawFrame*>(innermost));
    if (!tables.new_roots.empty())
      has_new_roots_.store(true, std::memory_order_relaxed);
    tables.drop_runner();
    if (tables.frames.empty())
      return 0;
    const StackHash content = tables.content_hash();
    uint32_t id = tables.contents.find(content);
    if (id == 0) {
      id = sink_.next_id(TextKind::stack);
      sink_.text(TextKind::stack, id, tables.frames.data(),
                 tables.frames.size() * sizeof(StackFrame));
      tables.contents.insert(content, id);
    }
    stacks_.insert(hash, id);
    return id;
  } catch (...) { // no memory
    sink_.lose(Loss::text_no_space);
    return 0;
  }
}

std::vector<uint32_t> StackTable::take_new_roots() {
  const std::lock_guard lock(g_first_sight);
  has_new_roots_.store(false, std::memory_order_relaxed);
  return std::exchange(tables_->new_roots, {});
}

PyObject* StackTable::module_object(uint32_t module) {
  const std::lock_guard lock(g_first_sight);
  const auto found = tables_->instances.find(module);
  if (found == tables_->instances.end())
    return nullptr;
  const auto [object, number] = found->second;
  if (!is_alive(object, number))
    return nullptr;
  return Py_NewRef(const_cast<PyObject*>(object));
}

uint32_t StackTable::root_id(PyObject* module) {
  const std::lock_guard lock(g_first_sight);
  Tables::Module* const found = tables_->module_of(module);
  if (!found)
    return 0;
  if (!std::exchange(found->root, true)) {
    tables_->new_roots.push_back(found->id);
    has_new_roots_.store(true, std::memory_order_relaxed);
  }
  return found->id;
}

uint32_t StackTable::module_id(PyObject* module) {
  const std::lock_guard lock(g_first_sight);
  const Tables::Module* found = tables_->module_of(module);
  return found ? found->id : 0;
}

} // namespace memtrace
