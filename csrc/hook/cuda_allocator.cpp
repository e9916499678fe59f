// The CUDA caching allocator, through its own trace tracker: called for every event under the
// device's lock, so never the GIL here, nor any call back into torch.
//
// libc10_cuda is looked up at run time: one binary serves the CPU and the CUDA build of a torch.
#include "hook/allocator_event.h"
#include "hook/hook.h"

#include <c10/cuda/CUDACachingAllocator.h>

#include <array>
#include <dlfcn.h>
#include <mutex>
#include <stdexcept>

namespace memtrace {
namespace {

namespace CCA = c10::cuda::CUDACachingAllocator;
using CCA::TraceEntry;

constexpr const char* kAllocatorSymbol = "_ZN3c104cuda20CUDACachingAllocator9allocatorE";
constexpr int kMaxDevices = 64;

std::atomic<bool> g_attached{false};
// Place in each device's order, counted under that device's lock.
uint32_t g_order[kMaxDevices];

Action action_of(TraceEntry::Action action) noexcept {
  switch (action) {
  case TraceEntry::ALLOC:
    return Action::alloc;
  case TraceEntry::FREE_REQUESTED:
    return Action::free_requested;
  case TraceEntry::FREE_COMPLETED:
    return Action::free_completed;
  case TraceEntry::SEGMENT_ALLOC:
    return Action::segment_alloc;
  case TraceEntry::SEGMENT_FREE:
    return Action::segment_free;
  case TraceEntry::SEGMENT_MAP:
    return Action::segment_map;
  case TraceEntry::SEGMENT_UNMAP:
    return Action::segment_unmap;
  case TraceEntry::SNAPSHOT:
    return Action::snapshot;
  case TraceEntry::OOM:
    return Action::oom;
  }
  return Action::none;
}

// Memory pools get small numbers. Few exist, so a list in the order of first sight will do; it is
// read without a lock, since entries are written before the count is published.
class PoolTable {
 public:
  uint16_t find(const c10::cuda::MempoolId_t& pool, Recording& recording) noexcept {
    if (pool.first == 0 && pool.second == 0)
      return 0;
    const uint32_t count = count_.load(std::memory_order_acquire);
    for (uint32_t i = count; i-- > 0;)
      if (pools_[i].id == pool && pools_[i].recording == recording.number)
        return pools_[i].number;
    return add(pool, recording);
  }

 private:
  struct Entry {
    c10::cuda::MempoolId_t id;
    uint32_t recording;
    uint16_t number;
  };

  uint16_t add(const c10::cuda::MempoolId_t& pool, Recording& recording) noexcept {
    std::lock_guard lock(mutex_);
    const uint32_t count = count_.load(std::memory_order_relaxed);
    for (uint32_t i = count; i-- > 0;) // another device's thread may have been first
      if (pools_[i].id == pool && pools_[i].recording == recording.number)
        return pools_[i].number;
    const RecorderApi& api = recording.api;
    const uint32_t number = api.next_id(api.recorder, TextKind::pool);
    const uint64_t text[2] = {pool.first, pool.second};
    api.text(api.recorder, TextKind::pool, number, text, sizeof text);
    if (count < pools_.size() && number <= UINT16_MAX) {
      pools_[count] = {pool, recording.number, static_cast<uint16_t>(number)};
      count_.store(count + 1, std::memory_order_release);
    }
    return static_cast<uint16_t>(number);
  }

  std::mutex mutex_;
  std::array<Entry, 4096> pools_;
  std::atomic<uint32_t> count_{0};
};

PoolTable& pools() {
  static auto* table = new PoolTable;
  return *table;
}

void on_event(const TraceEntry& entry) {
  HookScope scope;
  if (!scope)
    return;
  const auto device = static_cast<uint32_t>(entry.device_) % kMaxDevices;
  AllocatorFacts facts{};
  facts.ticks = ticks_before(); // under the lock, so `order` orders what the clock may not
  facts.size_bytes = entry.size_;
  facts.order = ++g_order[device];
  facts.pool = pools().find(entry.mempool_, scope.recording());
  facts.device = cuda_device(static_cast<int>(device));
  facts.action = action_of(entry.action_);
  if (facts.action == Action::oom)
    facts.stream = entry.addr_; // free bytes of the device
  else {
    facts.address = entry.addr_;
    facts.stream = reinterpret_cast<uint64_t>(entry.stream_);
  }
  write_event(scope, facts);
}

CCA::CUDAAllocator* find_allocator() {
  void* library = dlopen("libc10_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!library)
    return nullptr;
  auto* slot = static_cast<std::atomic<CCA::CUDAAllocator*>*>(dlsym(library, kAllocatorSymbol));
  dlclose(library); // NOLOAD took a reference; torch holds its own
  return slot ? slot->load() : nullptr;
}

} // namespace

bool cuda_allocator_attached() noexcept { return g_attached.load(); }

CudaAttach attach_cuda_allocator() {
  if (g_attached.load())
    return CudaAttach::attached;
  CCA::CUDAAllocator* allocator = find_allocator();
  if (!allocator)
    return CudaAttach::no_cuda_build;
  // Attaching before initialisation is silently lost.
  if (!allocator->initialized())
    return CudaAttach::not_initialized;
  const std::string back_end = allocator->name();
  if (back_end != "native")
    throw std::runtime_error("torch's CUDA allocator back end is '" + back_end +
                             "', which offers no event tracker: CUDA memory is not recorded; unset "
                             "backend: in PYTORCH_ALLOC_CONF (or the pluggable allocator) to "
                             "record it");
  pools();
  allocator->attachAllocatorTraceTracker(&on_event);
  g_attached.store(true);
  return CudaAttach::attached;
}

} // namespace memtrace
