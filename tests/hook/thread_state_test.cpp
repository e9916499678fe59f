// The hooks' state of each thread: made, joined to a recording, waited for, left behind by fork.
#include "hook/fake_torch.h"
#include "hook/notes.h"

#include <chrono>
#include <condition_variable>
#include <doctest/doctest.h>
#include <iterator>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace memtrace;
using namespace memtrace::test;
using namespace std::chrono_literals;

namespace {

void write_one(uint64_t address) {
  HookScope scope;
  if (!scope)
    return;
  AllocatorFacts facts{};
  facts.ticks = ticks_before();
  facts.address = address;
  facts.action = Action::alloc;
  write_event(scope, facts);
}

// A thread that stays inside a hook until told to leave it.
class BusyThread {
 public:
  BusyThread() : thread_([this] { stay(); }) {
    while (!inside_.load())
      std::this_thread::yield();
  }
  ~BusyThread() {
    leave();
    thread_.join();
  }
  BusyThread(const BusyThread&) = delete;
  BusyThread& operator=(const BusyThread&) = delete;
  void leave() { leaving_.store(true); }

 private:
  void stay() {
    HookScope scope;
    inside_.store(true);
    while (!leaving_.load())
      std::this_thread::sleep_for(1ms);
  }

  std::atomic<bool> inside_{false};
  std::atomic<bool> leaving_{false};
  std::thread thread_;
};

// Status of a forked child that ran `work`: 0 when it gave true.
template <class Work> int in_forked_child(const Work& work) {
  const pid_t child = fork();
  if (child == 0)
    _exit(work() ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

} // namespace

TEST_CASE("a thread has a state from its first event to its end, and its log is used again") {
  TestRecording recording;
  recording.start();
  uint32_t log = 0;
  for (int i = 0; i < 200; ++i) {
    std::thread([&log, i] {
      CHECK(t_state == nullptr);
      write_one(1 + i);
      REQUIRE(t_state != nullptr);
      if (log == 0)
        log = t_state->log->number;
      CHECK(t_state->log->number == log);
      CHECK(t_state->thread == kMainThread + 1 + i);
      CHECK(t_state->busy.load() == 0);
    }).join();
  }
  recording.stop();
  const auto written = read_log(recording.path(), log);
  REQUIRE(written.size() == 200);
  for (uint32_t i = 0; i < 200; ++i) {
    CHECK(written[i].event.address == 1 + i);
    CHECK(written[i].event.tail.thread == kMainThread + 1 + i);
  }
  CHECK(read_texts(recording.path(), TextKind::thread).size() == 200);
}

TEST_CASE("without a recording a hook does nothing, not even make a state") {
  std::thread([] {
    write_one(1);
    CHECK(t_state == nullptr);
  }).join();
}

TEST_CASE("inside a hook nothing is recorded: the recorder's own work stays out") {
  TestRecording recording;
  recording.start();
  std::thread([] {
    HookScope outer;
    REQUIRE(outer);
    HookScope inner;
    CHECK_FALSE(inner);
    write_one(1);
  }).join();
  recording.stop();
  CHECK(recording.records().empty());
}

TEST_CASE("a thread says who it is when it joins a recording") {
  TestRecording recording;
  recording.start();
  std::atomic<pid_t> os_thread{0};
  std::thread([&] {
    os_thread = gettid();
    write_one(1);
  }).join();
  const auto texts = read_texts(recording.path(), TextKind::thread);
  REQUIRE(texts.size() == 1);
  ThreadText text{};
  REQUIRE(texts.at(kMainThread + 1).size() == sizeof text);
  std::memcpy(&text, texts.at(kMainThread + 1).data(), sizeof text);
  CHECK(text.os_thread_id == static_cast<uint64_t>(os_thread.load()));
  CHECK(text.record_function_thread == 77);
}

TEST_CASE("joining a later recording forgets names and calls of the earlier one") {
  TestRecording first;
  TestRecording second;
  std::thread([&] {
    first.start();
    write_one(1);
    ThreadLog* old_log = t_state->log;
    t_state->names[3][1] = {"name", "name", 9, 0, true, OptimizerScope::none};
    t_state->calls[1] = {};
    t_state->calls[1].call = t_state->calls[1].name = 4;
    t_state->calls[1].owner = t_state->calls[1].top = 4;
    t_state->depth = 1;
    first.stop();
    second.start();
    write_one(2);
    CHECK(t_state->log != old_log);
    CHECK(t_state->recording == &second.seen());
    CHECK(t_state->names[3][1].pointer == nullptr);
    CHECK(t_state->depth == 0); // it may be over: nobody saw its end
    second.stop();
  }).join();
  const auto written = second.records();
  REQUIRE(written.size() == 1);
  const AllocatorEvent& event = written[0].event;
  CHECK(event.address == 2);
  CHECK(event.call == 0);
  CHECK(event.op_name == 0);
  CHECK(event.top_name == 0);
}

TEST_CASE("in a pause one gate stays open; a thread keeps its log and forgets its calls") {
  TestRecording recording;
  std::thread([&] {
    recording.start();
    write_one(1);
    const ThreadLog* const log = t_state->log;
    const uint32_t thread = t_state->thread;
    t_state->names[3][1] = {"name", "name", 9, 0, true, OptimizerScope::none};
    t_state->calls[1] = {};
    t_state->calls[1].call = 4;
    t_state->depth = 1;
    CHECK(quiesce_for_pause());
    write_one(2);
    CHECK(t_state->depth == 1);
    {
      const HookScope kept(g_kept_recording);
      CHECK(kept);
      CHECK(t_state->depth == 0);
    }
    g_recording.store(&recording.seen());
    write_one(3);
    CHECK(t_state->log == log);
    CHECK(t_state->thread == thread);
    CHECK(t_state->names[3][1].pointer != nullptr);
    CHECK(t_state->recording.load() == &recording.seen());
  }).join();
  recording.stop();
  const auto written = recording.records();
  REQUIRE(written.size() == 2);
  CHECK(written[1].event.address == 3);
  CHECK(written[1].event.call == 0);
  CHECK(read_texts(recording.path(), TextKind::thread).size() == 1);
}

TEST_CASE("a thread that ends in a pause gives its log back") {
  TestRecording recording;
  recording.start();
  uint32_t first = 0, second = 0;
  std::thread([&] {
    write_one(1);
    first = t_state->log->number;
    CHECK(quiesce_for_pause());
  }).join();
  g_recording.store(&recording.seen());
  std::thread([&] {
    write_one(2);
    second = t_state->log->number;
  }).join();
  CHECK(first == second);
  recording.stop();
  CHECK(recording.records().size() == 2);
}

TEST_CASE("no log to be had: the event is counted as lost, the thread goes on") {
  TestRecording recording;
  recording.seen().api.acquire_log = [](void*) noexcept -> ThreadLog* { return nullptr; };
  recording.start();
  std::thread([] {
    write_one(1);
    write_one(2);
    REQUIRE(t_state != nullptr);
    CHECK(t_state->busy.load() == 0);
    CHECK(t_state->recording != g_recording.load());
  }).join();
  CHECK(recording.recorder().lost(Loss::event_no_space) == 2);
}

TEST_CASE("quiesce waits for a thread inside a hook") {
  TestRecording recording;
  recording.start();
  BusyThread busy;
  std::atomic<bool> left{false};
  std::thread later([&] {
    std::this_thread::sleep_for(20ms);
    left = true;
    busy.leave();
  });
  CHECK(quiesce());
  CHECK(left);
  later.join();
}

TEST_CASE(
    "quiesce gives up on a thread that stays inside a hook; the gate is closed all the same") {
  TestRecording recording;
  recording.start();
  const BusyThread busy;
  const auto start = std::chrono::steady_clock::now();
  CHECK_FALSE(quiesce());
  CHECK(std::chrono::steady_clock::now() - start >= 100ms);
  CHECK(g_recording.load() == nullptr);
}

TEST_CASE("quiesce does not wait for the thread that calls it") {
  TestRecording recording;
  recording.start();
  HookScope scope;
  const auto start = std::chrono::steady_clock::now();
  CHECK_FALSE(quiesce()); // it is still inside: what it writes into has to stay
  CHECK(std::chrono::steady_clock::now() - start < 100ms);
}

TEST_CASE("after quiesce no thread writes any more") {
  for (int round = 0; round < 10; ++round) {
    TestRecording recording;
    recording.start();
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
      threads.emplace_back([&] {
        for (uint64_t address = 1; !done.load(std::memory_order_relaxed); ++address)
          write_one(address);
      });
    std::this_thread::sleep_for(3ms);
    REQUIRE(quiesce());
    recording.recorder().close(true); // unmaps the windows: a late writer would crash
    done = true;
    for (std::thread& thread : threads)
      thread.join();
  }
}

TEST_CASE("a forked child is off and can begin a recording of its own") {
  TestRecording recording;
  recording.start();
  write_one(1);
  const std::string parents = recording.path();
  const int status = in_forked_child([&] {
    forget_in_child();
    if (g_recording.load() || t_state->log->reserve() || t_state->recording != &g_no_recording)
      return false;
    write_one(2); // nobody records
    TestRecording own;
    own.start();
    write_one(3);
    const auto written = own.records();
    return quiesce() && written.size() == 1 && written[0].event.address == 3;
  });
  CHECK(status == 0);
  write_one(4);
  recording.stop();
  const auto written = recording.records();
  REQUIRE(written.size() == 2);
  CHECK(written[1].event.address == 4);
}

TEST_CASE("a hook that is in the middle of its work when its thread forks ends in both") {
  TestRecording recording;
  recording.start();
  int in_child = -1;
  {
    const HookScope scope;
    REQUIRE(scope);
    in_child = in_forked_child([&] {
      forget_in_child();
      write_mark(scope, "late");
      flush_full_window(scope);
      return true;
    });
    write_mark(scope, "here");
  }
  CHECK(in_child == 0);
  recording.stop();
  CHECK(recording.records().size() == 1);
}

TEST_CASE("a fork at any moment of other threads' beginning and ending leaves a usable child") {
  TestRecording recording;
  recording.start();
  write_one(1);
  std::atomic<bool> done{false};
  std::thread churn([&] {
    while (!done.load())
      std::thread([] { write_one(2); }).join();
  });
  for (int i = 0; i < 30; ++i) {
    const int status = in_forked_child([&] {
      alarm(20); // a mutex that stayed locked would hold the child for ever
      forget_in_child();
      return quiesce();
    });
    CHECK(status == 0);
  }
  done = true;
  churn.join();
}

TEST_CASE("what is written is the whole record: a window that is used again hides nothing") {
  TestRecording recording;
  recording.start();
  std::thread([] {
    constexpr uint64_t kEverything = UINT64_MAX;
    Note full{};
    full.value = full.value2 = kEverything;
    full.name = full.text = full.target = full.reason = full.source = UINT32_MAX;
    for (uint32_t& word : full.reserved)
      word = UINT32_MAX;
    full.tail = {0, 0, kCpu, Action::mark};
    for (size_t i = 0; i < 2 * kRecordsPerChunk; ++i) { // both windows
      const HookScope scope;
      write_record(scope, full);
      flush_full_window(scope);
    }
    const HookScope scope;
    write_mark(scope, "some_kind", 5);
    TensorRecord empty{};
    empty.tail = {0, 0, kCpu, Action::tensor};
    write_record(scope, empty);
    t_state->calls[1] = {};
    t_state->calls[1].kind = ContextKind::node;
    t_state->calls[1].call = 1;
    write_context(*t_state, t_state->calls[1], scope.recording());
  }).join();
  recording.stop();
  const auto written = recording.records();
  REQUIRE(written.size() == 2 * kRecordsPerChunk + 3);
  const auto last = std::prev(written.end(), 3);
  const Note& mark = last[0].note;
  CHECK(mark.value == 5);
  CHECK(mark.tail.thread == kMainThread + 1);
  CHECK((mark.value2 | mark.text | mark.target | mark.reason | mark.source) == 0);
  CHECK((mark.reserved[0] | mark.reserved[1] | mark.reserved[2]) == 0);
  const TensorRecord& tensor = last[1].tensor;
  CHECK((tensor.address | tensor.reserved0 | tensor.reserved) == 0);
  const ContextBegin& context = last[2].context;
  CHECK(context.call == 1);
  CHECK((context.reserved[0] | context.reserved[1] | context.reserved[2]) == 0);
}
