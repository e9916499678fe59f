#include "store/spool_follower.h"

#include "record/clock.h"
#include "record/recorder.h"
#include "store/spool_builder.h"
#include "store/spool_error.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <doctest/doctest.h>
#include <fstream>
#include <map>
#include <thread>

using namespace memtrace;
using memtrace::test::event_record;
using memtrace::test::SpoolBuilder;
using memtrace::test::TemporaryDirectory;

namespace {

using Numbers = std::vector<uint64_t>;

void append(ThreadLog* log, uint64_t number, uint32_t thread = 1) {
  Record* record = log->reserve();
  REQUIRE(record);
  record->event = {};
  record->event.ticks = ticks_after();
  record->event.address = number;
  log->publish({thread, 0, kCpu, Action::alloc});
}

// Everything that is settled now; of a running writer, what it published 20 ms ago.
Numbers take(SpoolFollower& follower, bool ended = false) {
  Numbers numbers;
  do {
    follower.look(ended);
    while (const Record* record = follower.next())
      numbers.push_back(record->event.address);
  } while (follower.behind());
  return numbers;
}

void settle() {
  std::this_thread::sleep_for(std::chrono::milliseconds(25));
}

Numbers counted(uint64_t first, uint64_t last) {
  Numbers numbers;
  for (uint64_t number = first; number <= last; ++number)
    numbers.push_back(number);
  return numbers;
}

Record numbered(uint64_t ticks, uint64_t number) {
  return event_record(ticks, Action::alloc, kCpu, 0, number);
}

} // namespace

TEST_CASE("each record is handed out once, as it comes") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  SpoolFollower follower(spool.path());
  CHECK(take(follower).empty());
  uint64_t number = 0;
  for (const uint64_t more : {3UL, 1UL, 2 * kRecordsPerChunk, 0UL, 9 * kRecordsPerChunk + 5}) {
    const uint64_t first = number + 1;
    for (uint64_t i = 0; i < more; ++i)
      append(log, ++number);
    settle();
    CHECK(take(follower) == counted(first, number));
  }
  CHECK(follower.missing_chunks() == 0);
  CHECK(follower.bytes_read() == number * kRecordBytes);
}

TEST_CASE("a follower that comes late begins with the first record") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  constexpr uint64_t kRecords = 20 * kRecordsPerChunk + 3;
  for (uint64_t i = 1; i <= kRecords; ++i)
    append(log, i);
  settle();
  SpoolFollower follower(spool.path());
  follower.look(false);
  CHECK(follower.behind()); // a look takes a bounded part
  Numbers numbers;
  while (const Record* record = follower.next())
    numbers.push_back(record->event.address);
  CHECK(numbers.size() < kRecords);
  CHECK_FALSE(numbers.empty());
  const Numbers rest = take(follower);
  numbers.insert(numbers.end(), rest.begin(), rest.end());
  CHECK(numbers == counted(1, kRecords));
}

TEST_CASE("a record that is half written waits for its tail") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  SpoolFollower follower(spool.path());
  append(log, 1);
  Record* half = log->reserve();
  half->event = {};
  half->event.ticks = ticks_after();
  half->event.address = 2;
  settle();
  CHECK(take(follower) == Numbers{1});
  CHECK(take(follower, true).empty());
  log->publish({1, 0, kCpu, Action::alloc});
  settle();
  CHECK(take(follower) == Numbers{2});
}

TEST_CASE("what is not settled is not handed out, unless the writer has ended") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  SpoolFollower follower(spool.path());
  Record* ahead = log->reserve();
  ahead->event = {};
  ahead->event.ticks = ticks_after() + (uint64_t{1} << 40); // minutes from now
  ahead->event.address = 1;
  log->publish({1, 0, kCpu, Action::alloc});
  CHECK(take(follower).empty());
  CHECK(take(follower, true) == Numbers{1});
}

TEST_CASE("a recorder that was closed has nothing unsettled") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  SpoolFollower follower(spool.path());
  append(recorder.acquire_log(), 7);
  recorder.close(true);
  CHECK(take(follower) == Numbers{7});
  CHECK(follower.control().complete == 1);
}

TEST_CASE("many threads: nothing is lost, nothing comes twice, and each log keeps its order") {
  constexpr uint32_t kThreads = 4;
  constexpr uint64_t kRecords = 30'000;
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  SpoolFollower follower(spool.path());
  std::atomic<uint32_t> done = 0;
  std::vector<std::thread> threads;
  for (uint32_t thread = 1; thread <= kThreads; ++thread)
    threads.emplace_back([&, thread] {
      ThreadLog* log = recorder.acquire_log();
      for (uint64_t i = 1; i <= kRecords; ++i) {
        append(log, i, thread);
        recorder.flush(log);
      }
      ++done;
    });
  std::map<uint32_t, uint64_t> seen;
  bool in_order = true;
  const auto read = [&](bool ended) {
    follower.look(ended);
    while (const Record* record = follower.next())
      in_order &= record->event.address == ++seen[record->event.tail.thread];
  };
  while (done < kThreads)
    read(false);
  for (std::thread& thread : threads)
    thread.join();
  do {
    read(true);
  } while (follower.behind());
  CHECK(in_order);
  REQUIRE(seen.size() == kThreads);
  for (const auto& [thread, records] : seen)
    CHECK(records == kRecords);
  CHECK(follower.missing_chunks() == 0);
}

// From here on spools of another machine, whose clock says nothing here: all is settled at once.

TEST_CASE("logs are merged by ticks, and by a device's order, also from look to look") {
  SpoolBuilder spool;
  const auto cuda = [](uint64_t ticks, uint32_t order) {
    return event_record(ticks, Action::alloc, cuda_device(0), order, order);
  };
  spool.control.complete = 0;
  spool.records = SpoolBuilder::chunk(2, 0, {cuda(10, 1), cuda(20, 3), cuda(30, 4), cuda(40, 5)});
  spool.windows = SpoolBuilder::chunk(3, 0, {cuda(21, 2)});
  SpoolFollower follower(spool.write());
  CHECK(take(follower) == counted(1, 5));
  spool.windows = SpoolBuilder::chunk(3, 0, {cuda(21, 2), cuda(50, 6)}) +
                  SpoolBuilder::chunk(2, 1, {cuda(51, 7)});
  spool.write();
  CHECK(take(follower) == Numbers{6, 7});
  CHECK(follower.order_gaps() == 0);
}

TEST_CASE("a chunk in both files is read from its window") {
  SpoolBuilder spool;
  spool.control.complete = 0;
  spool.records = SpoolBuilder::chunk(2, 0, {numbered(1, 1)}); // being appended
  spool.windows = SpoolBuilder::chunk(2, 0, {numbered(1, 1), numbered(2, 2), numbered(3, 3)});
  SpoolFollower follower(spool.write());
  CHECK(take(follower) == Numbers{1, 2, 3});
  // It is whole now, and its window cleared.
  spool.records =
      SpoolBuilder::chunk(2, 0, {numbered(1, 1), numbered(2, 2), numbered(3, 3), numbered(4, 4)});
  spool.windows = std::string(spool.windows.size(), '\0');
  spool.write();
  CHECK(take(follower) == Numbers{4});
}

TEST_CASE("a chunk that the disk had no room for is left out and counted") {
  SpoolBuilder spool;
  spool.control.complete = 0;
  spool.records =
      SpoolBuilder::chunk(2, 0, {numbered(1, 1)}) + SpoolBuilder::chunk(2, 3, {numbered(9, 9)});
  SpoolFollower follower(spool.write());
  CHECK(take(follower) == Numbers{1, 9});
  CHECK(follower.missing_chunks() == 2);
}

TEST_CASE("a text that is half written is read when it is whole") {
  SpoolBuilder spool;
  spool.text_frame(TextKind::name, 1, "first");
  SpoolFollower follower(spool.write());
  take(follower);
  CHECK(follower.text().name(1) == "first");
  const std::string whole = spool.text;
  spool.text_frame(TextKind::name, 2, "second");
  for (size_t size = whole.size() + 1; size < spool.text.size(); ++size) {
    spool.put("text.log", spool.text.substr(0, size));
    take(follower);
    CHECK_FALSE(follower.text().find(TextKind::name, 2));
  }
  spool.write();
  take(follower);
  CHECK(follower.text().name(2) == "second");
  CHECK(follower.text().name(1) == "first");
  CHECK(follower.text().bytes_cut() == 0);
}

TEST_CASE("a spool that is not made yet is refused, as one that is none") {
  TemporaryDirectory folder;
  CHECK_THROWS_AS(SpoolFollower(folder.path()), SpoolError);
  std::ofstream(folder.path() + "/control.bin") << std::string(kControlBytes, '\0');
  CHECK_THROWS_AS(SpoolFollower(folder.path()), SpoolError);
}

TEST_CASE("a limit on addresses leaves less room, and is no reason to refuse") {
  TemporaryDirectory folder;
  std::ofstream(folder.path() + "/file") << "text";
  const MappedFile file(folder.path() + "/file", MappedFile::Missing::refuse, size_t{1} << 60);
  CHECK(std::string(reinterpret_cast<const char*>(file.data()), file.size()) == "text");
}
