#include "hook/fake_torch.h"

#include <cstddef>
#include <deque>

// The parts of the hook that need Python or torch.
namespace memtrace {

uint32_t StackTable::take() noexcept {
  return ++test::t_stacks_taken;
}

uint64_t record_function_thread() noexcept {
  return 77;
}

void find_marked_step(ThreadState&, const Recording&) noexcept {}

void forget_root_scan() noexcept {}
void forget_backwards() noexcept {}

namespace test {
namespace {

Recorder& of(void* recorder) {
  return *static_cast<Recorder*>(recorder);
}

} // namespace

StackTable* counting_stacks() noexcept {
  alignas(StackTable) static std::byte place[sizeof(StackTable)];
  return reinterpret_cast<StackTable*>(place);
}

Recording* TestRecording::make(Recorder* recorder) {
  static auto* all = new std::deque<Recording>;
  Recording& recording = all->emplace_back();
  RecorderApi& api = recording.api;
  api.recorder = recorder;
  api.acquire_log = [](void* to) noexcept { return of(to).acquire_log(); };
  api.release_log = [](void* to, ThreadLog* log) noexcept { of(to).release_log(log); };
  api.flush = [](void* to, ThreadLog* log) noexcept { of(to).flush(log); };
  api.intern = [](void* to, const char* text, size_t size) noexcept {
    return of(to).intern({text, size});
  };
  api.text = [](void* to, TextKind kind, uint32_t id, const void* text, size_t size) noexcept {
    return of(to).text(kind, id, text, size);
  };
  api.next_id = [](void* to, TextKind kind) noexcept { return of(to).next_id(kind); };
  api.lose = [](void* to, Loss kind, uint64_t count) noexcept { of(to).lose(kind, count); };
  return &recording;
}

} // namespace test
} // namespace memtrace
