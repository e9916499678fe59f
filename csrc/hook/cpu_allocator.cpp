// CPU tensors: torch's CPU allocator, wrapped.
//
// The wrapper keeps the inner allocator's pointer and context and changes only the deleter
// function, so raw_allocate(), raw_deleter() and move-only DataPtr tricks go on working. What torch
// allocated through us keeps our deleter for life: its end is recorded in a pause as well, in which
// torch allocates without us. After a recording stops it only passes the free on.
//
// torch.UntypedStorage(n), and with it deepcopy of tensors and modules, asks for the default
// allocator by name and never sees one that was set. So the default allocator object itself is made
// ours, by its vtable pointer: it has no data members, and neither has the wrapper.
#include "hook/allocator_event.h"
#include "hook/hook.h"
#include "hook/root_scan.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace memtrace {
namespace {

c10::Allocator* g_inner = nullptr;
c10::DeleterFnPtr g_inner_deleter = nullptr;

constexpr auto kHost = static_cast<uint16_t>(Memory::host);
// Above the default allocator (0) and any that a library set; see SetCPUAllocator.
constexpr uint8_t kPriority = 0xff;

void record_alloc(void* address, size_t size_bytes) noexcept {
  HookScope scope(g_kept_recording);
  if (!scope)
    return;
  write_event(scope, {ticks_after(), reinterpret_cast<uint64_t>(address), size_bytes, 0, 0, kHost,
                      kCpu, Action::alloc});
  // An operator asks when it ends; where none are recorded, this is where no lock is held.
  const StackTable* stacks = scope.recording().stacks;
  if (scope.state().depth == 0 && stacks && stacks->has_new_roots()) [[unlikely]]
    request_root_scan();
}

void record_free(void* address) noexcept {
  HookScope scope(g_kept_recording);
  if (scope)
    write_event(scope, {ticks_before(), reinterpret_cast<uint64_t>(address), 0, 0, 0, kHost, kCpu,
                        Action::free_requested});
}

// Memory that the host can still give, from /proc/meminfo; 0: not known. No allocation: there is
// none to be had.
uint64_t available_bytes() noexcept {
  const int file = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return 0;
  char text[1024];
  const ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  text[std::max<ssize_t>(length, 0)] = 0;
  constexpr const char* kLabel = "MemAvailable:";
  const char* found = std::strstr(text, kLabel);
  return found ? std::strtoull(found + std::strlen(kLabel), nullptr, 10) * 1024 : 0;
}

void record_failure(size_t size_bytes) noexcept {
  const int error = errno;
  if (HookScope scope(g_kept_recording); scope)
    write_event(scope,
                {ticks_after(), 0, size_bytes, available_bytes(), 0, kHost, kCpu, Action::oom});
  errno = error;
}

c10::DataPtr allocate_inner(size_t size_bytes) {
  try {
    return g_inner->allocate(size_bytes);
  } catch (...) { // goes on as it came
    record_failure(size_bytes);
    throw;
  }
}

void free_and_record(void* address) {
  if (address)
    record_free(address);
  g_inner_deleter(address);
}

class RecordingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size_bytes) override {
    c10::DataPtr data = allocate_inner(size_bytes);
    // A block whose deleter we cannot replace would never be seen to end: it is not recorded.
    if (data.get() && data.compare_exchange_deleter(g_inner_deleter, &free_and_record))
      record_alloc(data.get(), size_bytes);
    return data;
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_and_record; }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override {
    return g_inner->is_simple_data_ptr(data);
  }
  void copy_data(void* to, const void* from, std::size_t size_bytes) const override {
    g_inner->copy_data(to, from, size_bytes);
  }
};

RecordingAllocator* wrapper() {
  static auto* allocator = new RecordingAllocator; // leaked: torch keeps the pointer
  return allocator;
}

// ---- the default allocator becomes ours, and is itself again
// -------------------------------------

using VtablePointer [[gnu::may_alias]] = void*;

static_assert(sizeof(RecordingAllocator) == sizeof(VtablePointer));

VtablePointer& vtable_of(c10::Allocator* allocator) {
  return *reinterpret_cast<VtablePointer*>(allocator);
}

// Other threads are in the middle of virtual calls: they take the one vtable or the other.
void set_vtable(c10::Allocator* allocator, VtablePointer vtable) {
  __atomic_store_n(&vtable_of(allocator), vtable, __ATOMIC_RELEASE);
}

// What the default allocator was: an object of its class, so that g_inner is called as any other.
VtablePointer g_default_allocator = nullptr;

bool default_is_ours() {
  if (g_default_allocator == nullptr)
    return false;
  // NOLINTNEXTLINE(clang-analyzer-core.*): the analyzer knows no vtable pointer in an object
  return vtable_of(c10::GetDefaultCPUAllocator()) == vtable_of(wrapper());
}

} // namespace

void install_cpu_allocator() {
  c10::Allocator* current = c10::GetCPUAllocator();
  if (current == wrapper() || default_is_ours())
    return;
  // An allocator without a raw deleter (none in torch itself) cannot be followed to its frees.
  if (!current->raw_deleter())
    return;
  const bool is_default = current == c10::GetDefaultCPUAllocator();
  if (is_default) {
    g_default_allocator = vtable_of(current);
    current = reinterpret_cast<c10::Allocator*>(&g_default_allocator);
  }
  // Blocks of an earlier recording still carry our deleter and must reach the allocator they came
  // from, so the inner one is fixed for the life of the process.
  if (g_inner && g_inner != current)
    return;
  g_inner = current;
  g_inner_deleter = current->raw_deleter();
  if (is_default)
    // NOLINTNEXTLINE(clang-analyzer-core.*): likewise
    set_vtable(c10::GetDefaultCPUAllocator(), vtable_of(wrapper()));
  else
    c10::SetCPUAllocator(wrapper(), kPriority);
}

void remove_cpu_allocator() {
  if (default_is_ours())
    set_vtable(c10::GetDefaultCPUAllocator(), g_default_allocator);
  // A library that set its own allocator after us keeps it.
  else if (g_inner && c10::GetCPUAllocator() == wrapper())
    c10::SetCPUAllocator(g_inner, kPriority);
}

} // namespace memtrace
