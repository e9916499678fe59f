// The allocator's rules, one by one; tests/exact holds the mirror against the allocator itself.
#include "analyse/block_mirror.h"

#include <doctest/doctest.h>

using namespace memtrace;

namespace {

constexpr uint64_t kBase = uint64_t{1} << 40;
constexpr Place kNow{0, 0};

struct Mirror : BlockMirror {
  std::vector<uint32_t> lost;

  void segment(uint64_t address, uint64_t bytes, uint64_t stream = 0) {
    add_range(address, bytes, stream, 0, false, kNow, lost);
  }
  void map(uint64_t address, uint64_t bytes, uint64_t stream = 0, uint16_t pool = 0) {
    add_range(address, bytes, stream, pool, true, kNow, lost);
  }
  void unmap(uint64_t address, uint64_t bytes) { remove_range(address, bytes, kNow, lost); }
  uint64_t take(uint64_t address, uint64_t bytes) { return alloc(address, bytes, 1).size_bytes; }
  void free(uint64_t address) {
    free_requested(*live(address));
    free_completed(address);
  }
};

AllocatorSettings expandable() {
  AllocatorSettings settings;
  settings.expandable_segments = true;
  return settings;
}

} // namespace

TEST_CASE("sizes are rounded to 512 bytes") {
  const AllocatorSettings settings;
  CHECK(settings.round(0) == 512);
  CHECK(settings.round(1) == 512);
  CHECK(settings.round(512) == 512);
  CHECK(settings.round(513) == 1024);
  CHECK(settings.round(kMiB + 1) == kMiB + 512);
}

TEST_CASE("sizes are rounded to divisions of a power of two") {
  AllocatorSettings settings;
  settings.roundup_power2_divisions.fill(4);
  CHECK(settings.round(2048) == 2048); // not above 512 * 4
  CHECK(settings.round(2049) == 2560); // steps of 2048 / 4
  CHECK(settings.round(1200 * 1024) == 1280 * 1024);
  CHECK(settings.round(4 * kMiB) == 4 * kMiB);
  // By size class: 2 MiB to 4 MiB is the second.
  settings.roundup_power2_divisions.fill(0);
  settings.roundup_power2_divisions[1] = 2;
  CHECK(settings.round(2 * kMiB + 1) == 3 * kMiB);
  CHECK(settings.round(kMiB + 1) == kMiB + 512);
}

TEST_CASE("settings are read from the text of a mark") {
  const auto settings = AllocatorSettings::from_json(
      R"({"conf":"x","expandable_segments":true,"max_split_size":33554432,)"
      R"("roundup_power2_divisions":[0,2,4],"large_segment_size":33554432})");
  CHECK(settings.expandable_segments);
  CHECK(settings.max_split_bytes == 32 * kMiB);
  CHECK(settings.roundup_power2_divisions[2] == 4);
  CHECK(settings.large_segment_bytes == 32 * kMiB);
  CHECK(AllocatorSettings::from_json(R"({"max_split_size":-1})").max_split_bytes == UINT64_MAX);
  CHECK(AllocatorSettings::from_json("{").max_split_bytes == UINT64_MAX);
}

TEST_CASE("settings that torch would refuse keep their defaults") {
  const AllocatorSettings none;
  for (const char* text :
       {R"({"large_segment_size":1})", R"({"large_segment_size":10485759})",
        R"({"large_segment_size":9223372036854775807,"max_split_size":9223372036854775807})",
        R"({"max_non_split_rounding":0,"garbage_collection_threshold":1e308})",
        R"({"garbage_collection_threshold":-1,"max_split_size":"20"})",
        R"({"roundup_power2_divisions":[-4,3,36028797018963968,"8",null]})"}) {
    const auto settings = AllocatorSettings::from_json(text);
    CHECK(settings.large_segment_bytes == none.large_segment_bytes);
    CHECK(settings.max_split_bytes == none.max_split_bytes);
    CHECK(settings.max_non_split_rounding_bytes == none.max_non_split_rounding_bytes);
    CHECK(settings.garbage_collection_threshold == 0);
    CHECK(settings.roundup_power2_divisions == none.roundup_power2_divisions);
    CHECK(settings.segment_bytes(settings.round(kMiB + 1)) == 20 * kMiB);
  }
}

TEST_CASE("a small block is split when 512 bytes are left") {
  Mirror mirror;
  mirror.segment(kBase, 2 * kMiB);
  CHECK(mirror.take(kBase, 100) == 512);
  CHECK(mirror.take(kBase + 512, 2 * kMiB - 512 - 512) == 2 * kMiB - 512);
}

TEST_CASE("a large block is split only when more than 1 MiB is left") {
  Mirror mirror;
  mirror.segment(kBase, 20 * kMiB);
  CHECK(mirror.take(kBase, 18 * kMiB) == 18 * kMiB);
  CHECK(mirror.take(kBase + 18 * kMiB, kMiB + 1) == 2 * kMiB); // less than 1 MiB would be left
  CHECK(mirror.bytes().allocated == static_cast<int64_t>(20 * kMiB));
  CHECK(mirror.bytes().requested == static_cast<int64_t>(19 * kMiB + 1));
}

TEST_CASE("a pool of the program's own has rules of its own") {
  const PoolRules whole = PoolRules::from_json(R"({"no_split": true})");
  const PoolRules own = PoolRules::from_json(R"({"own_allocator": true})");
  CHECK(whole.no_split);
  CHECK_FALSE(whole.own_allocator);
  CHECK(own.own_allocator);
  CHECK_FALSE(PoolRules::from_json("").no_split);
  CHECK_FALSE(PoolRules::from_json("[1]").own_allocator);
  CHECK_FALSE(AllocatorSettings{}.splits(2 * kMiB, 512, whole));
  CHECK_FALSE(expandable().splits(20 * kMiB, 3 * kMiB, whole));
  CHECK(expandable().splits(10 * kMiB, 10 * kMiB - 512));
  CHECK_FALSE(expandable().splits(10 * kMiB, 10 * kMiB - 512, own));
  CHECK(expandable().splits(20 * kMiB, 3 * kMiB, own));
  CHECK_FALSE(expandable().expands(own));
}

TEST_CASE("max_split_size keeps large blocks whole") {
  Mirror mirror;
  AllocatorSettings settings;
  settings.max_split_bytes = 32 * kMiB;
  mirror.set_settings(settings);
  mirror.segment(kBase, 40 * kMiB);
  CHECK(mirror.take(kBase, 34 * kMiB) == 40 * kMiB);
}

TEST_CASE("expandable segments split at 512 bytes, as soon as the setting is on") {
  Mirror mirror;
  mirror.segment(kBase, 20 * kMiB);
  CHECK(mirror.take(kBase, 10 * kMiB) == 10 * kMiB);
  mirror.set_settings(expandable());
  CHECK(mirror.take(kBase + 10 * kMiB, 10 * kMiB - 512) == 10 * kMiB - 512);
}

TEST_CASE("free neighbours merge, of one segment only") {
  Mirror mirror;
  mirror.segment(kBase, 2 * kMiB);
  mirror.segment(kBase + 2 * kMiB, 2 * kMiB);
  mirror.take(kBase, 512);
  mirror.take(kBase + 512, 512);
  mirror.take(kBase + 1024, 512);
  mirror.free(kBase);
  mirror.free(kBase + 1024);
  CHECK(mirror.blocks().size() == 4);
  mirror.free(kBase + 512);
  CHECK(mirror.blocks().size() == 2); // one whole free block for each segment
  CHECK(mirror.blocks().at(kBase).size_bytes == 2 * kMiB);
}

TEST_CASE("a block awaiting its free counts as active and does not merge") {
  Mirror mirror;
  mirror.segment(kBase, 2 * kMiB);
  mirror.take(kBase, 512);
  mirror.free_requested(*mirror.live(kBase));
  CHECK(mirror.bytes().allocated == 0);
  CHECK(mirror.bytes().active == 512);
  CHECK(mirror.blocks().size() == 2);
  mirror.free_completed(kBase);
  CHECK(mirror.bytes().active == 0);
  CHECK(mirror.blocks().size() == 1);
}

TEST_CASE("mapped ranges of one reservation merge") {
  Mirror mirror;
  mirror.set_settings(expandable());
  mirror.segments().set_device_bytes(1024 * kMiB);
  mirror.map(kBase, 20 * kMiB);
  mirror.map(kBase + 20 * kMiB, 20 * kMiB);
  CHECK(mirror.blocks().size() == 1);
  CHECK(mirror.segments().live().size() == 2);
  CHECK(mirror.take(kBase, 30 * kMiB) == 30 * kMiB);
}

TEST_CASE("reservations that lie back to back do not merge") {
  Mirror mirror;
  mirror.set_settings(expandable());
  mirror.segments().set_device_bytes(32 * kMiB); // a large reservation is 40 MiB long
  mirror.map(kBase, 20 * kMiB);
  mirror.map(kBase + 20 * kMiB, 20 * kMiB);
  SUBCASE("of the same stream and pool: only their places tell") {
    mirror.map(kBase + 40 * kMiB, 20 * kMiB);
    CHECK(mirror.blocks().size() == 2);
  }
  SUBCASE("small beside large") {
    mirror.map(kBase + 40 * kMiB, 2 * kMiB);
    CHECK(mirror.blocks().size() == 2);
  }
  SUBCASE("of another stream") {
    mirror.map(kBase + 40 * kMiB, 20 * kMiB, 7);
    CHECK(mirror.blocks().size() == 2);
  }
  SUBCASE("of another pool") {
    mirror.map(kBase + 40 * kMiB, 20 * kMiB, 0, 3);
    CHECK(mirror.blocks().size() == 2);
  }
}

TEST_CASE("a reservation that was given back may come again with other pages") {
  Mirror mirror;
  mirror.set_settings(expandable());
  mirror.segments().set_device_bytes(32 * kMiB);
  mirror.map(kBase, 20 * kMiB);
  mirror.unmap(kBase, 20 * kMiB);
  CHECK(mirror.bytes().reserved == 0);
  mirror.map(kBase + 2 * kMiB, 2 * kMiB);
  mirror.map(kBase + 4 * kMiB, 2 * kMiB);
  CHECK(mirror.blocks().size() == 1);
}

TEST_CASE("unmapping the middle splits the range; what is live sums to reserved") {
  Mirror mirror;
  mirror.set_settings(expandable());
  mirror.segments().set_device_bytes(1024 * kMiB);
  mirror.map(kBase, 60 * kMiB);
  mirror.take(kBase, 512);
  mirror.unmap(kBase + 20 * kMiB, 20 * kMiB);
  CHECK(mirror.bytes().reserved == static_cast<int64_t>(40 * kMiB));
  uint64_t live = 0;
  for (const auto& [address, range] : mirror.segments().live())
    live += range.size_bytes;
  CHECK(live == 40 * kMiB);
  const auto ended = mirror.segments().take_ended();
  REQUIRE(ended.size() == 1);
  CHECK(ended[0].address == kBase + 20 * kMiB);
  CHECK(ended[0].size_bytes == 20 * kMiB);
  // Free blocks on both sides of the hole; the hole is no neighbour.
  mirror.free(kBase);
  CHECK(mirror.blocks().size() == 2);
  // Mapped again: one block.
  mirror.map(kBase + 20 * kMiB, 20 * kMiB);
  CHECK(mirror.blocks().size() == 1);
  CHECK(mirror.inconsistencies() == 0);
}

TEST_CASE("peaks are those since the last reset") {
  Mirror mirror;
  mirror.segment(kBase, 20 * kMiB);
  mirror.take(kBase, 10 * kMiB);
  mirror.free(kBase);
  CHECK(mirror.peak().allocated == static_cast<int64_t>(10 * kMiB));
  mirror.reset_peak();
  CHECK(mirror.peak().allocated == 0);
  CHECK(mirror.peak().reserved == static_cast<int64_t>(20 * kMiB));
}

TEST_CASE("blocks from before the recording lie where they lie") {
  Mirror mirror;
  mirror.segment(kBase, 20 * kMiB);
  CHECK(mirror.preexisting(kBase + 4 * kMiB, 3 * kMiB, 4 * kMiB, 1).size_bytes == 4 * kMiB);
  CHECK(mirror.bytes().allocated == static_cast<int64_t>(4 * kMiB));
  CHECK(mirror.blocks().size() == 3);
  CHECK(mirror.inconsistencies() == 0);
  mirror.free(kBase + 4 * kMiB);
  CHECK(mirror.blocks().size() == 1);
}

TEST_CASE("contradictions are counted, and recorded facts hold") {
  Mirror mirror;
  SUBCASE("an allocation in unknown memory") {
    CHECK(mirror.take(kBase, 1000) == 1024);
    CHECK(mirror.bytes().allocated == 1024);
    mirror.free(kBase);
    CHECK(mirror.bytes().active == 0);
    CHECK(mirror.blocks().empty());
  }
  SUBCASE("an allocation inside a free block") {
    mirror.segment(kBase, 2 * kMiB);
    CHECK(mirror.take(kBase + kMiB, 1000) == 1024);
    CHECK(mirror.blocks().size() == 3);
  }
  SUBCASE("a segment that goes with a live block") {
    mirror.segment(kBase, 2 * kMiB);
    mirror.take(kBase, 1000);
    mirror.unmap(kBase, 2 * kMiB);
    CHECK(mirror.lost == std::vector<uint32_t>{1});
    CHECK(mirror.bytes().allocated == 0);
    CHECK(mirror.bytes().reserved == 0);
    CHECK(mirror.blocks().empty());
  }
  SUBCASE("a segment that comes twice") {
    mirror.segment(kBase, 2 * kMiB);
    mirror.segment(kBase + kMiB, 2 * kMiB);
    CHECK(mirror.bytes().reserved == static_cast<int64_t>(3 * kMiB));
  }
  CHECK(mirror.inconsistencies() > 0);
}

TEST_CASE("of blocks alone, each is as large as it is told, and reserved is a counter") {
  Mirror mirror;
  mirror.set_settings(AllocatorSettings::from_json(R"({"blocks_only": true})"));
  CHECK(mirror.take(kBase, 20 * kMiB + 1) == 20 * kMiB + 1);
  CHECK(mirror.preexisting(kBase + kMiB * 64, 100, 0, 2).size_bytes == 100);
  mirror.tell_reserved(static_cast<int64_t>(128 * kMiB));
  mirror.free(kBase);
  mirror.tell_reserved(static_cast<int64_t>(64 * kMiB));
  CHECK(mirror.take(kBase + kMiB, 512) == 512); // where a larger one was
  CHECK(mirror.bytes().allocated == 612);
  CHECK(mirror.bytes().reserved == static_cast<int64_t>(64 * kMiB));
  CHECK(mirror.peak().reserved == static_cast<int64_t>(128 * kMiB));
  CHECK(mirror.inconsistencies() == 0);
  SUBCASE("two in one place still contradict each other") {
    mirror.take(kBase + kMiB + 256, 512);
    CHECK(mirror.inconsistencies() == 1);
  }
}
