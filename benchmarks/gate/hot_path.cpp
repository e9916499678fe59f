// Allocations and frees on the CPU through the hook, with operators and stacks off.
//
//     hot_path EVENTS SPOOL
//
// The hook's own cpu_allocator.cpp on torch's c10; benchmarks/gate/hot_path.py runs it.
#include "hook/allocator_event.h"
#include "hook/hook.h"
#include "hook/root_scan.h"
#include "record/recorder.h"

#include <c10/core/CPUAllocator.h>

#include <cstdlib>

namespace memtrace {
[[gnu::noipa]] uint32_t StackTable::take() noexcept {
  return 0;
}
uint64_t record_function_thread() noexcept {
  return 1;
}
void forget_root_scan() noexcept {}
void request_root_scan() noexcept {}
void forget_backwards() noexcept {}
void find_marked_step(ThreadState&, const Recording&) noexcept {}
} // namespace memtrace

using namespace memtrace;

namespace {
Recorder* g_recorder;
}

int main(int argc, char** argv) {
  if (argc != 3)
    return 2;
  const long events = std::atol(argv[1]);
  Recorder recorder(argv[2], 0);
  g_recorder = &recorder;
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
  install_cpu_allocator();
  c10::Allocator* const allocator = c10::GetCPUAllocator();
  g_recording.store(&recording);
  g_kept_recording.store(&recording);
  for (long i = 0; i < events; ++i)
    allocator->allocate(4096);
  g_recording.store(nullptr);
  g_kept_recording.store(nullptr);
  return t_state ? 0 : 1; // 1: nothing was recorded
}
