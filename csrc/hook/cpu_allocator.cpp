// CPU tensors: torch's CPU allocator, wrapped.
//
// The wrapper keeps the inner allocator's pointer and context and changes only the deleter function,
// so raw_allocate(), raw_deleter() and move-only DataPtr tricks go on working. What torch allocated
// through us keeps our deleter for life; after a recording stops it only passes the free on.
#include "hook/allocator_event.h"
#include "hook/hook.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

namespace memtrace {
namespace {

c10::Allocator* g_inner = nullptr;
c10::DeleterFnPtr g_inner_deleter = nullptr;

constexpr auto kHost = static_cast<uint16_t>(Memory::host);
// Above the default allocator (0) and any that a library set; see SetCPUAllocator.
constexpr uint8_t kPriority = 0xff;

void record_alloc(void* address, size_t size_bytes) noexcept {
  HookScope scope;
  if (scope)
    write_event(scope, {ticks_after(), reinterpret_cast<uint64_t>(address), size_bytes, 0, 0, kHost,
                        kCpu, Action::alloc});
}

void record_free(void* address) noexcept {
  HookScope scope;
  if (scope)
    write_event(scope, {ticks_before(), reinterpret_cast<uint64_t>(address), 0, 0, 0, kHost, kCpu,
                        Action::free_requested});
}

void free_and_record(void* address) {
  if (address)
    record_free(address);
  g_inner_deleter(address);
}

class RecordingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size_bytes) override {
    c10::DataPtr data = g_inner->allocate(size_bytes);
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

} // namespace

void install_cpu_allocator() {
  c10::Allocator* current = c10::GetCPUAllocator();
  if (current == wrapper())
    return;
  // An allocator without a raw deleter (none in torch itself) cannot be followed to its frees.
  if (!current->raw_deleter())
    return;
  // Blocks of an earlier recording still carry our deleter and must reach the allocator they came
  // from, so the inner one is fixed for the life of the process.
  if (g_inner && g_inner != current)
    return;
  g_inner = current;
  g_inner_deleter = current->raw_deleter();
  c10::SetCPUAllocator(wrapper(), kPriority);
}

void remove_cpu_allocator() {
  // A library that set its own allocator after us keeps it.
  if (g_inner && c10::GetCPUAllocator() == wrapper())
    c10::SetCPUAllocator(g_inner, kPriority);
}

} // namespace memtrace
