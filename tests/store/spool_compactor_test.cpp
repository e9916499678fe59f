#include "store/spool_compactor.h"

#include "record/clock.h"
#include "record/recorder.h"
#include "store/record_merge.h"
#include "store/spool_builder.h"

#include <chrono>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <sys/stat.h>
#include <thread>

using namespace memtrace;
using memtrace::test::read;
using memtrace::test::TemporaryDirectory;

namespace {

using Numbers = std::vector<uint64_t>;

void append(ThreadLog* log, uint64_t number) {
  Record* record = log->reserve();
  REQUIRE(record);
  record->event = {};
  record->event.ticks = ticks_after();
  record->event.address = number;
  log->publish({1, 0, kCpu, Action::alloc});
}

// All that is published.
Numbers followed(SpoolFollower& follower) {
  std::this_thread::sleep_for(std::chrono::milliseconds(25)); // until it is settled
  Numbers numbers;
  do {
    follower.look(false);
    while (const Record* record = follower.next())
      numbers.push_back(record->event.address);
  } while (follower.behind());
  return numbers;
}

size_t disk_bytes(const std::string& path) {
  struct stat status{};
  return stat(path.c_str(), &status) == 0 ? static_cast<size_t>(status.st_blocks) * 512 : 0;
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

} // namespace

TEST_CASE("what was read is packed, and everyone still reads it") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* logs[] = {recorder.acquire_log(), recorder.acquire_log()};
  const std::string records = spool.path() + "/records.bin";
  SpoolFollower follower(spool.path());
  SpoolCompactor compactor(spool.path());
  Numbers all, seen;
  for (int round = 0; round < 6; ++round) {
    for (size_t i = 0; i < 60 * kRecordsPerChunk; ++i) {
      all.push_back(all.size() + 1);
      append(logs[i % 3 == 0], all.back()); // one is slower
    }
    REQUIRE(compactor.compact(follower)); // what the last round read
    const Numbers more = followed(follower);
    seen.insert(seen.end(), more.begin(), more.end());
    REQUIRE(compactor.compact(follower));
    SpoolFollower late(spool.path());
    CHECK(followed(late) == all);
    CHECK(read(spool.path()) == all);
  }
  CHECK(seen == all);
  const size_t raw = all.size() * kRecordBytes;
  CHECK(raw > 3 * SpoolCompactor::kRawBytes);
  constexpr size_t kMostAhead = size_t{4} << 20; // reserved by the recorder
  CHECK(disk_bytes(records) < SpoolCompactor::kRawBytes + kMostAhead);
  CHECK(disk_bytes(spool.path() + "/packed-0.bin") < raw / 4);
}

TEST_CASE("what was not read is left") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  for (size_t i = 0; i < 100 * kRecordsPerChunk; ++i)
    append(log, i + 1);
  const std::string before = bytes_of(spool.path() + "/records.bin");
  SpoolFollower follower(spool.path());
  SpoolCompactor compactor(spool.path());
  REQUIRE(compactor.compact(follower));
  CHECK(bytes_of(spool.path() + "/records.bin") == before);
  CHECK(bytes_of(spool.path() + "/packed-0.bin").empty());
}

TEST_CASE("a finaliser that is killed between packing and taking out loses nothing") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  Numbers all;
  for (size_t i = 0; i < 100 * kRecordsPerChunk; ++i) {
    all.push_back(i + 1);
    append(log, i + 1);
  }
  const std::string records = spool.path() + "/records.bin";
  const std::string before = bytes_of(records);
  SpoolFollower follower(spool.path());
  followed(follower);
  REQUIRE(SpoolCompactor(spool.path()).compact(follower));
  CHECK(bytes_of(records) != before);
  std::ofstream(records, std::ios::binary) << before;
  CHECK(read(spool.path()) == all);
  REQUIRE(SpoolCompactor(spool.path()).compact(follower)); // another one, which does it again
  CHECK(read(spool.path()) == all);
}

TEST_CASE("a follower that is behind finds what another one packed") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  Numbers all;
  const auto more = [&] {
    for (size_t i = 0; i < 80 * kRecordsPerChunk; ++i) {
      all.push_back(all.size() + 1);
      append(log, all.back());
    }
  };
  more();
  SpoolFollower behind(spool.path()), ahead(spool.path());
  SpoolCompactor compactor(spool.path());
  behind.look(false); // has listed it all, and read a part
  Numbers seen;
  while (const Record* record = behind.next())
    seen.push_back(record->event.address);
  more();
  followed(ahead);
  REQUIRE(compactor.compact(ahead));
  const Numbers rest = followed(behind);
  seen.insert(seen.end(), rest.begin(), rest.end());
  CHECK(seen == all);
  CHECK(behind.missing_chunks() == 0);
}

TEST_CASE("what was packed and given up before it was read is counted") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  ThreadLog* log = recorder.acquire_log();
  uint64_t number = 0;
  for (size_t i = 0; i < 160 * kRecordsPerChunk; ++i)
    append(log, ++number);
  SpoolFollower behind(spool.path()), ahead(spool.path());
  behind.look(false);
  size_t seen = 0;
  while (behind.next())
    ++seen;
  SpoolCompactor compactor(spool.path());
  followed(ahead);
  REQUIRE(compactor.compact(ahead));
  REQUIRE(std::filesystem::remove(spool.path() + "/packed-0.bin"));
  seen += followed(behind).size();
  CHECK(behind.missing_chunks() > 0);
  CHECK(seen + behind.missing_chunks() * kRecordsPerChunk == number);
}
