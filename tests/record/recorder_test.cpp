#include "record/recorder.h"

#include "record/spool_files.h"

#include <algorithm>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace memtrace;
using namespace memtrace::test;

namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kWindowBytes = kChunksPerWindow * kChunkBytes;
constexpr size_t kRecordsPerWindow = kChunksPerWindow * kRecordsPerChunk;

bool append(ThreadLog* log, uint64_t address) {
  Record* record = log->reserve();
  if (!record)
    return false;
  record->event = {};
  record->event.ticks = ticks_after();
  record->event.address = address;
  log->publish({1, 0, kCpu, Action::alloc});
  return true;
}

// Those of a chunk that this process has in its page tables.
size_t mapped_pages(const void* chunk) {
  constexpr uint64_t kPresent = uint64_t{1} << 63;
  uint64_t pages[kChunkBytes / kPageBytes] = {};
  const int fd = open("/proc/self/pagemap", O_RDONLY);
  REQUIRE(fd >= 0);
  const auto first = reinterpret_cast<uintptr_t>(chunk) / kPageBytes;
  CHECK(pread(fd, pages, sizeof pages, static_cast<off_t>(first * sizeof pages[0])) ==
        sizeof pages);
  close(fd);
  return std::ranges::count_if(pages, [](uint64_t page) { return (page & kPresent) != 0; });
}

} // namespace

TEST_CASE("records of a log come back whole and in order over many windows") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  constexpr uint64_t kRecords = 5 * kRecordsPerWindow + kRecordsPerChunk + 17;
  for (uint64_t i = 1; i <= kRecords; ++i)
    REQUIRE(append(log, i));
  const auto records = read_log(spool.path(), log->number);
  REQUIRE(records.size() == kRecords);
  for (uint64_t i = 0; i < kRecords; ++i)
    CHECK(records[i].event.address == i + 1);
}

TEST_CASE("everything published is on disk at any moment, without close or flush") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  for (uint64_t i = 1; i <= 2 * kRecordsPerWindow + kRecordsPerChunk; ++i) {
    append(log, i);
    if (i % 997 == 0 || i % kRecordsPerChunk < 2)
      REQUIRE(read_log(spool.path(), log->number).size() == i);
  }
}

TEST_CASE("flush appends the full window, and the log goes on") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  for (uint64_t i = 1; i <= kRecordsPerWindow; ++i)
    append(log, i);
  CHECK_FALSE(log->flush_pending);
  append(log, kRecordsPerWindow + 1);
  CHECK(log->flush_pending);
  CHECK(file_bytes(spool.path() + "/records.bin").empty());
  recorder.flush(log);
  CHECK_FALSE(log->flush_pending);
  CHECK(file_bytes(spool.path() + "/records.bin").size() == kWindowBytes);
  append(log, kRecordsPerWindow + 2);
  CHECK(read_log(spool.path(), log->number).size() == kRecordsPerWindow + 2);
}

TEST_CASE("a log takes the disk chunk by chunk: what a thread hardly uses is small") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const auto taken_bytes = [&spool] {
    struct stat status{};
    REQUIRE(stat((spool.path() + "/windows.bin").c_str(), &status) == 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  };
  for (uint64_t logs = 1; logs <= 3; ++logs) {
    append(recorder.acquire_log(), 1);
    CHECK(taken_bytes() == logs * kChunkBytes);
  }
}

TEST_CASE("a chunk's pages are mapped before its first record, and those of no later chunk") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  REQUIRE(append(log, 1));
  const auto* chunk = static_cast<const char*>(log->windows[log->active].chunks);
  CHECK(mapped_pages(chunk) == kChunkBytes / kPageBytes);
  CHECK(mapped_pages(chunk + kChunkBytes) == 0);
}

TEST_CASE("where very many threads are alive at once, the windows of most are small") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  std::vector<ThreadLog*> logs; // the recorder's own is the first
  while (logs.size() < kLargeLogs + 3)
    logs.push_back(recorder.acquire_log());
  for (ThreadLog* log : logs) {
    const bool large = log->number <= kLargeLogs;
    for (uint64_t i = 1; i <= (large ? kRecordsPerWindow : kRecordsPerChunk); ++i)
      append(log, i);
    CHECK_FALSE(log->flush_pending);
    append(log, 0);
    CHECK(log->flush_pending);
    recorder.flush(log);
  }
  for (const ThreadLog* log : logs) {
    const bool large = log->number <= kLargeLogs;
    CHECK(read_log(spool.path(), log->number).size() ==
          (large ? kRecordsPerWindow : kRecordsPerChunk) + 1);
  }
}

TEST_CASE("a window that gets no more space is appended as far as it goes, and used again") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  append(log, 1);
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{3 * kChunkBytes, before.rlim_max}; // three chunks of a window, once appended
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  constexpr uint64_t kFits = 6 * kRecordsPerChunk;
  for (uint64_t i = 2; i <= kFits; ++i)
    append(log, i);
  CHECK(recorder.lost(Loss::event_no_space) == 0);
  CHECK(read_log(spool.path(), log->number).size() == kFits);
  append(log, kFits + 1);
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(recorder.lost(Loss::event_no_space) == 3 * kRecordsPerChunk);
  const auto records = read_log(spool.path(), log->number);
  REQUIRE(records.size() == 3 * kRecordsPerChunk + 1);
  CHECK(records.back().event.address == kFits + 1);
}

TEST_CASE("space is reserved ahead of the records and given back at the end") {
  TemporaryDirectory spool;
  const std::string path = spool.path() + "/records.bin";
  const auto taken_bytes = [&path] {
    struct stat status{};
    REQUIRE(stat(path.c_str(), &status) == 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  };
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  constexpr uint64_t kWindows = 9; // beyond a power of two: ahead is as much again as there was
  for (uint64_t i = 1; i <= (kWindows + 1) * kRecordsPerWindow; ++i)
    append(log, i);
  recorder.flush(log);
  CHECK(file_bytes(path).size() == kWindows * kWindowBytes); // no reader sees what is ahead
  CHECK(taken_bytes() >= (kWindows + 1) * kWindowBytes);
  recorder.close(true);
  CHECK(file_bytes(path).size() == kWindows * kWindowBytes);
  CHECK(taken_bytes() <= kWindows * kWindowBytes + 64 * 1024);
}

TEST_CASE("what nobody reads takes no more of the disk than was allowed, and losses are counted") {
  TemporaryDirectory spool;
  const std::string path = spool.path() + "/records.bin";
  constexpr uint64_t kMostWindows = 8; // with what is reserved ahead: reached after four
  Recorder recorder(spool.path(), 0, kMostWindows * kWindowBytes);
  ThreadLog* log = recorder.acquire_log();
  uint64_t appended = 0;
  const auto append_windows = [&](uint64_t windows) {
    for (uint64_t i = 0; i < windows * kRecordsPerWindow; ++i)
      REQUIRE(append(log, ++appended));
  };
  append_windows(20);
  recorder.flush(log);
  const uint64_t kept = file_bytes(path).size() / kWindowBytes;
  CHECK(kept >= kMostWindows / 2);
  CHECK(kept <= kMostWindows);
  CHECK(recorder.lost(Loss::event_no_space) == (19 - kept) * kRecordsPerWindow);
  CHECK(read_log(spool.path(), log->number).size() == (kept + 1) * kRecordsPerWindow);

  for (uint64_t i = 0; i <= 2 * kRecordsPerWindow; ++i) // notes are kept all the same
    recorder.note(Note{});
  CHECK(recorder.lost(Loss::record_no_space) == 0);
  CHECK(file_bytes(path).size() == (kept + 1) * kWindowBytes);

  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC); // a reader takes out what it has read
  REQUIRE(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(kept * kWindowBytes)) == 0);
  close(file);
  const uint64_t lost = recorder.lost(Loss::event_no_space);
  append_windows(3);
  recorder.flush(log);
  CHECK(recorder.lost(Loss::event_no_space) == lost);
  CHECK(file_bytes(path).size() == (kept + 4) * kWindowBytes);
}

TEST_CASE("a log of a thread that ended goes to the next thread") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* first = recorder.acquire_log();
  append(first, 1);
  recorder.release_log(first);
  ThreadLog* second = recorder.acquire_log();
  CHECK(second == first);
  append(second, 2);
  CHECK(read_log(spool.path(), second->number).size() == 2);
}

TEST_CASE("a thread has one number in a recording, and the main thread has the first") {
  TemporaryDirectory first, second;
  Recorder recorder(first.path(), 0);
  uint32_t one = 0, other = 0;
  std::thread([&] { one = recorder.thread_id(); }).join();
  std::thread([&] {
    other = recorder.next_id(TextKind::thread);
    CHECK(recorder.thread_id() == other);
  }).join();
  CHECK(one == kMainThread + 1);
  CHECK(other == kMainThread + 2);
  CHECK(recorder.thread_id() == kMainThread);
  CHECK(recorder.next_id(TextKind::thread) == kMainThread);
  Recorder next(second.path(), 0);
  std::thread([&] { other = next.thread_id(); }).join();
  CHECK(other == kMainThread + 1);
  CHECK(next.thread_id() == kMainThread);
}

TEST_CASE("a thousand threads in turn use one log, eight at once use eight") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  std::atomic<uint32_t> highest{0};
  const auto work = [&](uint64_t address) {
    ThreadLog* log = recorder.acquire_log();
    append(log, address);
    uint32_t seen = highest.load();
    while (seen < log->number && !highest.compare_exchange_weak(seen, log->number)) {
    }
    recorder.release_log(log);
  };
  for (uint64_t i = 1; i <= 1000; ++i)
    std::thread(work, i).join();
  CHECK(highest == 2); // 1 is the recorder's own
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < 2000; ++i)
        work(i + 1);
    });
  for (std::thread& thread : threads)
    thread.join();
  CHECK(highest <= 9);
  size_t records = 0;
  for (const auto& [key, chunk] : read_chunks(spool.path()))
    records += chunk.size();
  CHECK(records == 1000 + 8 * 2000);
}

TEST_CASE("a name is one id, in the file before it is returned, from many threads") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  CHECK(recorder.intern("") == 0);
  const uint32_t linear = recorder.intern("aten::linear");
  CHECK(recorder.intern("aten::linear") == linear);
  std::vector<std::thread> threads;
  std::atomic<bool> missing{false};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        const uint32_t id = recorder.intern("name" + std::to_string(i));
        if (i % 60 == 0) {
          auto texts = read_texts(spool.path(), TextKind::name);
          if (texts[id] != "name" + std::to_string(i))
            missing = true;
        }
      }
    });
  for (std::thread& thread : threads)
    thread.join();
  CHECK_FALSE(missing);
  const auto texts = read_texts(spool.path(), TextKind::name);
  CHECK(texts.size() == 301);
  CHECK(texts.at(linear) == "aten::linear");
}

TEST_CASE("names without end are written, and no more than so many are kept") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  constexpr uint32_t kNames = (1U << 17) + 2;
  for (uint32_t i = 0; i < kNames; ++i)
    REQUIRE(recorder.intern("request " + std::to_string(i)) == i + 1);
  CHECK(recorder.intern("request 5") == 6);
  const std::string last = "request " + std::to_string(kNames - 1);
  const uint32_t again = recorder.intern(last);
  CHECK(again == kNames + 1); // not kept: another id, with the same text
  const auto names = read_texts(spool.path(), TextKind::name);
  CHECK(names.at(kNames) == last);
  CHECK(names.at(again) == last);
}

TEST_CASE("notes and events from outside keep the order of their ticks in their log") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        Note note{};
        note.tail.action = Action::mark;
        recorder.note(note);
        AllocatorEvent event{};
        event.tail.action = Action::external;
        recorder.event(event);
      }
    });
  for (std::thread& thread : threads)
    thread.join();
  const auto records = read_log(spool.path(), 1);
  REQUIRE(records.size() == 16000);
  CHECK(std::is_sorted(records.begin(), records.end(), [](const Record& a, const Record& b) {
    return a.event.ticks < b.event.ticks;
  }));
}

TEST_CASE("control page: who, when, losses, exit status, complete") {
  TemporaryDirectory spool;
  {
    Recorder recorder(spool.path(), 0x030b07f0);
    recorder.lose(Loss::stack_too_deep, 3);
    Control open = read_control(spool.path());
    CHECK(open.magic == kSpoolMagic);
    CHECK(open.version == kSpoolVersion);
    CHECK(open.pid == static_cast<uint64_t>(getpid()));
    CHECK(open.complete == 0);
    CHECK(open.lost[static_cast<size_t>(Loss::stack_too_deep)] == 3);
    recorder.set_exit_status(7);
    recorder.close(true);
    recorder.close(true);
    CHECK(recorder.text(TextKind::name, 1, "x", 1) == false);
  }
  const Control closed = read_control(spool.path());
  CHECK(closed.complete == 1);
  CHECK(closed.has_exit_status == 1);
  CHECK(closed.exit_status == 7);
  CHECK(closed.end.monotonic_ns >= closed.start.monotonic_ns);
}

TEST_CASE("the page of a recorder that has ended takes late words until the next one begins") {
  TemporaryDirectory spool;
  TemporaryDirectory next_spool;
  Recorder recorder(spool.path(), 0);
  CHECK(recorder.intern("aten::mm") == 1);
  recorder.close(true);
  CHECK(recorder.intern("aten::mm") == 0);
  recorder.lose(Loss::event_no_space);
  recorder.set_exit_status(3);
  CHECK(recorder.lost(Loss::event_no_space) == 1);
  const Recorder next(next_spool.path(), 0);
  recorder.lose(Loss::event_no_space);
  recorder.set_exit_status(4);
  CHECK(recorder.lost(Loss::event_no_space) == 0);
  CHECK(read_control(spool.path()).exit_status == 3);
  CHECK(read_control(spool.path()).lost[0] == 1);
}

TEST_CASE("a directory that cannot be written is one clear error") {
  CHECK_THROWS_WITH_AS(Recorder("/nonexistent/spool", 0),
                       "cannot create /nonexistent/spool/control.bin: No such file or directory",
                       std::runtime_error);
}

TEST_CASE("a forked child leaves the parent's spool alone, and may make its own") {
  TemporaryDirectory spool;
  TemporaryDirectory child_spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  append(log, 1);
  const pid_t child = fork();
  if (child == 0) {
    Recorder own(child_spool.path(), 0);
    const bool recorded = append(own.acquire_log(), 2);
    recorder.lose(Loss::event_no_space);
    recorder.close(true);
    _exit(recorded ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  append(log, 3);
  CHECK(read_log(spool.path(), log->number).size() == 2);
  CHECK(read_control(spool.path()).lost[0] == 0);
  CHECK(read_control(spool.path()).complete == 0);
  CHECK(read_log(child_spool.path(), 2).size() == 1);
}

TEST_CASE(
    "a child that was forked beside threads that write can use its copy, which does nothing") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const uint32_t known = recorder.intern("known");
  TemporaryDirectory ended_spool;
  Recorder ended(ended_spool.path(), 0); // its control page stays mapped, but not in a child
  ended.close(true);
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread)
    threads.emplace_back([&, thread] {
      for (int i = 0; !done; ++i) {
        recorder.intern(std::to_string(thread) + " " + std::to_string(i));
        recorder.note({});
        recorder.release_log(recorder.acquire_log());
      }
    });
  for (int i = 0; i < 50; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20); // a mutex that stayed locked would hold it for ever
      recorder.note({});
      recorder.thread_id();
      ended.lose(Loss::event_no_space);
      ThreadLog* log = recorder.acquire_log();
      const bool written = append(log, 1) || recorder.intern("known") != 0 ||
                           recorder.text(TextKind::process, 0, "{}", 2);
      recorder.set_exit_status(1);
      recorder.close(true);
      _exit(written ? 1 : 0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    REQUIRE(status == 0);
  }
  done = true;
  for (std::thread& thread : threads)
    thread.join();
  CHECK(recorder.intern("known") == known);
  CHECK(read_control(spool.path()).complete == 0);
  CHECK(read_control(spool.path()).has_exit_status == 0);
  CHECK(read_control(ended_spool.path()).lost[0] == 0);
}
