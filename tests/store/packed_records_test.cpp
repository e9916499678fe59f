#include "store/packed_records.h"

#include "store/packed_files.h"
#include "store/spool_builder.h"

#include <cstring>
#include <doctest/doctest.h>
#include <fstream>
#include <random>

using namespace memtrace;
using memtrace::test::TemporaryDirectory;

namespace {

using Records = std::vector<Record>;

bool same(const Records& a, const Records& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Record)) == 0);
}

// Whatever its bytes are.
Records noise(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  Records records(count);
  for (Record& record : records) {
    uint64_t words[8];
    for (uint64_t& word : words) // often small, often as before
      word = random() >> (random() % 64) << (random() % 2 * 60);
    std::memcpy(&record, words, sizeof record);
  }
  return records;
}

// As a program allocates: sizes and stacks of a loop, addresses that come again.
Records loop(size_t count) {
  Records records(count);
  for (size_t i = 0; i < count; ++i) {
    AllocatorEvent& event = records[i].event;
    const size_t place = i / 2 % 40;
    event.ticks = 1'000'000'000 + i * 1500 + i % 7 * 31;
    event.address = 0x7f0012340000 + place * 40'960;
    event.call = static_cast<uint32_t>(i / 3 + 1);
    event.op_name = static_cast<uint32_t>(20 + place % 5);
    event.stack = static_cast<uint32_t>(100 + place);
    if (i % 2 == 0)
      event.size_bytes = 4096 * (1 + place % 3);
    event.tail = {1, 1, kCpu, i % 2 == 0 ? Action::alloc : Action::free_requested};
  }
  return records;
}

Records round_trip(const Records& records) {
  std::vector<uint8_t> packed;
  pack(records, packed);
  Records back(records.size());
  CHECK(unpack(packed, back));
  return back;
}

} // namespace

TEST_CASE("packed records come back bit by bit") {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const Records records = noise(seed * 7, seed);
    CHECK(same(round_trip(records), records));
  }
  CHECK(same(round_trip(loop(1023)), loop(1023)));
}

TEST_CASE("a program's records take a fifth of their bytes") {
  const Records records = loop(1023);
  std::vector<uint8_t> packed;
  pack(records, packed);
  CHECK(packed.size() * 5 < records.size() * sizeof(Record));
}

TEST_CASE("bytes that are not that many packed records are refused") {
  const Records records = noise(20, 1);
  std::vector<uint8_t> packed;
  pack(records, packed);
  Records back(records.size());
  for (size_t size = 0; size < packed.size(); ++size)
    CHECK_FALSE(unpack(std::span(packed).first(size), back));
  packed.push_back(0);
  CHECK_FALSE(unpack(packed, back));
  std::vector<uint8_t> endless(200, 0xff); // numbers that do not end
  CHECK_FALSE(unpack(endless, back));
}

TEST_CASE("what is cut of a file of packed chunks is written anew") {
  TemporaryDirectory spool;
  const Records first = loop(100), second = noise(50, 2);
  ChunkHeader header{kChunkMagic, 3, 7, {11, 12}, {}};
  {
    PackedWriter writer(spool.path());
    REQUIRE(writer.add(header, first));
    header.index = 8;
    REQUIRE(writer.add(header, second));
  }
  const std::string path = spool.path() + "/packed-0.bin";
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  std::ofstream(path, std::ios::binary) << bytes.substr(0, bytes.size() - 1);
  {
    PackedFiles cut(spool.path());
    REQUIRE(cut.chunks().size() == 1);
    PackedWriter(spool.path()).add(header, second);
    cut.read_on();
    REQUIRE(cut.chunks().size() == 2);
    for (size_t i = 0; i < 2; ++i) {
      const auto& chunk = cut.chunks()[i];
      CHECK(chunk.header.log == 3);
      CHECK(chunk.header.index == 7 + i);
      Records back(chunk.header.records);
      CHECK(cut.unpack(chunk, back));
      CHECK(same(back, i == 0 ? first : second));
    }
  }
  std::string flipped = bytes;
  flipped.back() ^= 1;
  std::ofstream(path, std::ios::binary) << flipped;
  const PackedFiles damaged(spool.path());
  REQUIRE(damaged.chunks().size() == 2);
  Records back(second.size(), loop(1)[0]);
  CHECK_FALSE(damaged.unpack(damaged.chunks()[1], back));
  CHECK(same(back, Records(second.size())));
}
