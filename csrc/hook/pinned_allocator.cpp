// Pinned host memory: torch's caching host allocator of CUDA (pin_memory, non_blocking copies).
//
// It is registered when torch is loaded and looked up in libtorch_cpu: one binary serves the CPU
// build, where there is none, and the CUDA build; it is found before CUDA is initialised, and
// nothing here calls CUDA.
//
// The allocator object itself is made ours, by its vtable pointer: whoever holds it goes on holding
// it. It has data members and a hidden class, so its own vtable is copied and one slot changed,
// allocate(): whatever else this version of torch has goes on as before, its type included.
//
// The deleter's context is the block that the cache keeps the memory in, so block_bytes is that
// block's own size, to the byte (torch rounds up to a power of two). A tensor's end is recorded
// when its free is requested: while copies under way still use the block, and later in the cache,
// it belongs to no tensor. (torch.cuda.host_memory_stats(): allocated_bytes counts the cache as
// well.)
#include "hook/allocator_event.h"
#include "hook/hook.h"

#include <torch/csrc/api/include/torch/version.h>

// Older versions register it in another way.
#define MEMTRACE_HAS_HOST_ALLOCATOR                                                                \
  (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 11))

#if MEMTRACE_HAS_HOST_ALLOCATOR

#include <ATen/core/CachingHostAllocator.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <typeinfo>

namespace memtrace {
namespace {

// What comes first in it does not depend on the type of stream.
using Block = at::HostBlock<c10::Stream>;
using Allocate = c10::DataPtr (*)(at::HostAllocator*, size_t);

constexpr auto kPinned = static_cast<uint16_t>(Memory::pinned);

// ---- what is recorded ---------------------------------------------------------------------------

Allocate g_allocate = nullptr;
std::atomic<c10::DeleterFnPtr> g_deleter{nullptr}; // torch's own; known from the first allocation

void free_and_record(void* context) {
  const auto* block = static_cast<const Block*>(context);
  if (HookScope scope(g_kept_recording); block && scope)
    write_event(scope, {ticks_before(), reinterpret_cast<uint64_t>(block->ptr_), 0, 0, 0, kPinned,
                        kCpu, Action::free_requested});
  g_deleter.load(std::memory_order_relaxed)(context);
}

bool take_over(c10::DataPtr& data) noexcept {
  const auto* block = static_cast<const Block*>(data.get_context());
  if (!block || block->ptr_ != data.get())
    return false; // not memory of the cache
  c10::DeleterFnPtr known = nullptr;
  if (!g_deleter.compare_exchange_strong(known, data.get_deleter()) && known != data.get_deleter())
    return false;
  return data.compare_exchange_deleter(data.get_deleter(), &free_and_record);
}

c10::DataPtr allocate_and_record(at::HostAllocator* allocator, size_t size_bytes) {
  c10::DataPtr data = g_allocate(allocator, size_bytes);
  // A block whose deleter we cannot replace would never be seen to end: it is not recorded.
  if (data.get() && take_over(data)) {
    const uint64_t block_bytes = static_cast<const Block*>(data.get_context())->size_;
    if (HookScope scope(g_kept_recording); scope)
      write_event(scope, {ticks_after(), reinterpret_cast<uint64_t>(data.get()), size_bytes,
                          block_bytes, 0, kPinned, kCpu, Action::alloc});
  }
  return data;
}

// ---- the allocator becomes ours, and is itself again --------------------------------------------

using VtablePointer [[gnu::may_alias]] = void**;

// Pointers to virtual member functions, as the Itanium C++ ABI has them: x86-64 and AArch64 mark
// one as virtual in a low bit here or there, which the division drops.
struct MethodPointer {
  uintptr_t offset;
  ptrdiff_t adjustment;
};
template <class Method> size_t slot_of(Method method) noexcept {
  return std::bit_cast<MethodPointer>(method).offset / sizeof(void*);
}

struct AfterLast : at::HostAllocator {
  virtual void after_last(); // takes the first slot that at::HostAllocator does not have
};

constexpr size_t kBeforeSlots = 2; // offset to the top, type
constexpr size_t kMostSlots = 64;

at::HostAllocator* g_allocator = nullptr; // the one whose vtable was copied
void** g_own_vtable = nullptr;
std::array<void*, kBeforeSlots + kMostSlots> g_changed_vtable{};

VtablePointer& vtable_of(at::HostAllocator* allocator) {
  return *reinterpret_cast<VtablePointer*>(allocator);
}

// Other threads are in the middle of virtual calls: they take the one vtable or the other.
void set_vtable(at::HostAllocator* allocator, void** vtable) {
  __atomic_store_n(&vtable_of(allocator), vtable, __ATOMIC_RELEASE);
}

at::HostAllocator* find_allocator() noexcept {
  try {
    at::HostAllocator* allocator = at::getHostAllocator(at::kCUDA);
    // Of another one that a library registered we do not know what a context is.
    const bool known = allocator != nullptr && std::strstr(typeid(*allocator).name(),
                                                           "CUDACachingHostAllocator") != nullptr;
    return known ? allocator : nullptr;
  } catch (...) {
    return nullptr; // some versions refuse where none is registered
  }
}

bool copy_vtable(at::HostAllocator* allocator) noexcept {
  const size_t slots = slot_of(&AfterLast::after_last);
  if (slots > kMostSlots)
    return false;
  g_own_vtable = vtable_of(allocator);
  std::copy_n(g_own_vtable - kBeforeSlots, kBeforeSlots + slots, g_changed_vtable.begin());
  void*& allocate = g_changed_vtable.at(kBeforeSlots + slot_of(&at::HostAllocator::allocate));
  g_allocate = reinterpret_cast<Allocate>(allocate);
  allocate = reinterpret_cast<void*>(&allocate_and_record);
  g_allocator = allocator;
  return true;
}

} // namespace

void install_pinned_allocator() {
  at::HostAllocator* allocator = find_allocator();
  // Blocks of an earlier recording must reach the allocator they came from: it is fixed for life.
  if (!allocator || (g_allocator && g_allocator != allocator))
    return;
  if (g_allocator || copy_vtable(allocator))
    set_vtable(g_allocator, g_changed_vtable.data() + kBeforeSlots);
}

void remove_pinned_allocator() {
  if (g_allocator)
    set_vtable(g_allocator, g_own_vtable);
}

} // namespace memtrace

#else

namespace memtrace {

void install_pinned_allocator() {}
void remove_pinned_allocator() {}

} // namespace memtrace

#endif
