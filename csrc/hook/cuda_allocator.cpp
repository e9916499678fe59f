// The CUDA caching allocator, through its own trace tracker: called for every event under the
// device's lock, so never the GIL here, nor any call back into torch.
//
// libc10_cuda is looked up at run time: one binary serves the CPU and the CUDA build of a torch.
#include "hook/cuda_event.h"
#include "hook/hook.h"

#include <c10/cuda/CUDACachingAllocator.h>

#include <dlfcn.h>
#include <stdexcept>

namespace memtrace {
namespace {

namespace CCA = c10::cuda::CUDACachingAllocator;
using CCA::TraceEntry;

constexpr const char* kAllocatorSymbol = "_ZN3c104cuda20CUDACachingAllocator9allocatorE";
constexpr uint64_t kBlockUnit = 512; // AllocatorEvent::reserved of a preexisting block is in these

std::atomic<bool> g_attached{false};

constexpr bool same(TraceEntry::Action torchs, Action ours) {
  return action_of<TraceEntry>(torchs) == ours;
}
static_assert(same(TraceEntry::ALLOC, Action::alloc) &&
              same(TraceEntry::FREE_REQUESTED, Action::free_requested) &&
              same(TraceEntry::FREE_COMPLETED, Action::free_completed) &&
              same(TraceEntry::SEGMENT_ALLOC, Action::segment_alloc) &&
              same(TraceEntry::SEGMENT_FREE, Action::segment_free) &&
              same(TraceEntry::SEGMENT_MAP, Action::segment_map) &&
              same(TraceEntry::SEGMENT_UNMAP, Action::segment_unmap) &&
              same(TraceEntry::SNAPSHOT, Action::snapshot) && same(TraceEntry::OOM, Action::oom));

void on_event(const TraceEntry& entry) {
  record_cuda_event(entry);
}

CCA::CUDAAllocator* find_allocator() {
  void* library = dlopen("libc10_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!library)
    return nullptr;
  auto* slot = static_cast<std::atomic<CCA::CUDAAllocator*>*>(dlsym(library, kAllocatorSymbol));
  dlclose(library); // NOLOAD took a reference; torch holds its own
  return slot ? slot->load() : nullptr;
}

// ---- memory from before the recording, or from its pause ----------------------------------------

void write_listed(ThreadLog* log, Recording& recording, const AllocatorEvent& event) {
  Record* record = log->reserve();
  if (!record)
    return recording.lose(Loss::external_failed);
  record->event = event;
  record->event.tail = {};
  log->publish(event.tail);
}

// After a pause blocks alone are listed, those that were recorded before among them: the finaliser
// knows which. What segments did was recorded in the pause as well.
enum class Listing : uint8_t { all, blocks };

// A segment and its live blocks, as if they had come into being at the moment of the snapshot.
void write_segment(ThreadLog* log, Recording& recording, const CCA::SegmentInfo& segment,
                   Listing listing) {
  const auto index = static_cast<uint32_t>(segment.device) % kMaxCudaDevices;
  AllocatorEvent event{};
  event.ticks = g_cuda_devices[index].listed_at_ticks;
  event.order = g_cuda_devices[index].listed_order; // after that event, whatever the clocks say
  event.address = segment.address;
  event.size_bytes = segment.total_size;
  event.stream = reinterpret_cast<uint64_t>(segment.stream);
  if constexpr (kPoolsKnown<TraceEntry>)
    event.tail.pool = pool_number(segment.owner_private_pool_id, recording);
  event.tail.device = cuda_device(static_cast<int>(index));
  event.tail.action = segment.is_expandable ? Action::segment_map : Action::segment_alloc;
  if (listing == Listing::all)
    write_listed(log, recording, event);
  for (const CCA::BlockInfo& block : segment.blocks) {
    if (block.active) {
      event.size_bytes = block.requested_size;
      event.context = static_cast<uint32_t>(block.size / kBlockUnit);
      event.tail.action = Action::preexisting;
      write_listed(log, recording, event);
      event.context = 0;
      if (!block.allocated) { // freed, but another stream may still use it
        event.tail.action = Action::free_requested;
        write_listed(log, recording, event);
      }
    }
    event.address += block.size;
  }
}

// While it lives, each device that this thread takes a snapshot of goes on recording there.
struct ListingScope {
  ListingScope() noexcept { t_listing = {0, ticks_before()}; }
  ~ListingScope() { t_listing = {}; }
  ListingScope(const ListingScope&) = delete;
  ListingScope& operator=(const ListingScope&) = delete;
};

auto snapshot_of(CCA::CUDAAllocator* allocator) {
  const ListingScope scope;
  return allocator->snapshot();
}

void list_live_blocks(CCA::CUDAAllocator* allocator, Recording& recording, Listing listing) {
  const auto snapshot = snapshot_of(allocator);
  ThreadLog* log = recording.api.acquire_log(recording.api.recorder);
  if (!log)
    return recording.lose(Loss::external_failed);
  for (const CCA::SegmentInfo& segment : snapshot.segments)
    write_segment(log, recording, segment, listing);
  recording.api.release_log(recording.api.recorder, log);
}

} // namespace

CudaAttach attach_cuda_allocator() {
  Recording* recording = g_kept_recording.load();
  if (!recording)
    return CudaAttach::not_initialized;
  CCA::CUDAAllocator* allocator = find_allocator();
  if (!allocator)
    return CudaAttach::no_cuda_build;
  // Attaching before initialisation is silently lost.
  if (!allocator->initialized())
    return CudaAttach::not_initialized;
  const std::string back_end = allocator->name();
  if (back_end != "native")
    throw std::runtime_error("torch's CUDA allocator back end is '" + back_end +
                             "', which reports no events");
  if (!g_attached.exchange(true)) {
    cuda_pools();
    allocator->attachAllocatorTraceTracker(&on_event);
  }
  list_live_blocks(allocator, *recording, Listing::all);
  if (!g_recording.load())
    pause_cuda_allocator();
  return CudaAttach::attached;
}

void pause_cuda_allocator() {
  if (const Recording* recording = g_kept_recording.load())
    for (CudaDevice& device : g_cuda_devices)
      pause_cuda_device(device, *recording);
}

void resume_cuda_allocator() {
  Recording* recording = g_kept_recording.load();
  CCA::CUDAAllocator* allocator = find_allocator();
  if (recording && allocator && g_cuda_devices[0].recording.load() == recording)
    list_live_blocks(allocator, *recording, Listing::blocks);
}

} // namespace memtrace
