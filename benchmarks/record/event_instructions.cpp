// Instructions per CUDA event with operators and stacks off, beyond a tracker that does nothing.
//
//     event_instructions nothing|floor|record|stacks|paused EVENTS SPOOL
//
// With `stacks` an allocation asks for one, which costs nothing here: the way to it is counted.
//
// Run under callgrind for two numbers of EVENTS; benchmarks/record/event_instructions.py does. The
// entry has the members of torch's TraceEntry; the code measured is the hook's own.
#include "hook/cuda_event.h"
#include "record/recorder.h"
#include "record/recorder_api.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

namespace memtrace {
[[gnu::noipa]] uint32_t StackTable::take() noexcept {
  return 0;
}
uint64_t record_function_thread() noexcept {
  return 1;
}
void forget_root_scan() noexcept {}
void forget_backwards() noexcept {}
void find_marked_step(ThreadState&, const Recording&) noexcept {}
} // namespace memtrace

using namespace memtrace;

namespace {

struct Entry {
  enum Action {
    ALLOC,
    FREE_REQUESTED,
    FREE_COMPLETED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    SNAPSHOT,
    OOM
  };
  Action action_;
  int8_t device_;
  size_t addr_;
  void* stream_;
  size_t size_;
  MempoolId mempool_;
  struct Stamp {
    uint64_t approx_t_;
  };
  Stamp time_;
};

// What no recorder can do without: the clock is read, and 64 bytes are written.
AllocatorEvent g_place;
void record_floor(const Entry& entry) noexcept {
  g_place.ticks = ticks_tsc();
  g_place.address = entry.addr_;
  g_place.size_bytes = entry.size_;
  g_place.stream = reinterpret_cast<uint64_t>(entry.stream_);
  g_place.call = g_place.stack = g_place.op_name = g_place.top_name = 0;
  g_place.order = g_place.context = 0;
  auto* tail = reinterpret_cast<uint64_t*>(&g_place.tail);
  std::atomic_ref<uint64_t>(*tail).store(static_cast<uint64_t>(entry.action_) + 1,
                                         std::memory_order_release);
}

Recorder* g_recorder;

Recording make_recording() {
  Recording recording{};
  RecorderApi& api = recording.api;
  api.acquire_log = [](void*) noexcept { return g_recorder->acquire_log(); };
  api.release_log = [](void*, ThreadLog* log) noexcept { g_recorder->release_log(log); };
  api.flush = [](void*, ThreadLog* log) noexcept { g_recorder->flush(log); };
  api.next_id = [](void*, TextKind kind) noexcept { return g_recorder->next_id(kind); };
  api.text = [](void*, TextKind kind, uint32_t id, const void* text, size_t size) noexcept {
    return g_recorder->text(kind, id, text, size);
  };
  api.lose = [](void*, Loss kind, uint64_t count) noexcept { g_recorder->lose(kind, count); };
  return recording;
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 4)
    return 2;
  const long events = std::atol(argv[2]);
  Recorder recorder(argv[3], 0);
  g_recorder = &recorder;
  Recording recording = make_recording();
  g_kept_recording.store(&recording);
  g_recording.store(&recording);
  open_cuda_device(0, recording, kClock == Clock::tsc);
  std::function<void(const Entry&)> tracker = [](const Entry& entry) { record_cuda_event(entry); };
  if (std::strcmp(argv[1], "nothing") == 0)
    tracker = [](const Entry&) {};
  if (std::strcmp(argv[1], "stacks") == 0)
    recording.stack_min_bytes = 0;
  if (std::strcmp(argv[1], "paused") == 0) {
    g_recording.store(nullptr);
    pause_cuda_device(g_cuda_devices[0], recording);
  }
  if (std::strcmp(argv[1], "floor") == 0)
    tracker = [](const Entry& entry) { record_floor(entry); };
  Entry entry{Entry::ALLOC, 0, 0x200000000000, nullptr, 4096, {0, 0}, {1}};
  for (long i = 0; i < events; ++i) {
    entry.action_ = static_cast<Entry::Action>(i % 3);
    tracker(entry);
  }
  g_recording.store(nullptr);
  g_kept_recording.store(nullptr);
  return 0;
}
