// The rules of torch's caching allocator, one by one; tests/exact holds them all against torch's.
#include "replay/allocator.h"

#include <doctest/doctest.h>
#include <random>
#include <set>

using namespace memtrace;
using namespace memtrace::replay;

namespace {

constexpr uint64_t kPage = 2 * kMiB;
constexpr auto kAlloc = SegmentAction::alloc;
constexpr auto kFree = SegmentAction::free;
constexpr auto kMap = SegmentAction::map;
constexpr auto kUnmap = SegmentAction::unmap;

AllocatorSettings expandable() {
  AllocatorSettings settings;
  settings.expandable_segments = true;
  return settings;
}

AllocatorSettings with_max_split(uint64_t bytes) {
  AllocatorSettings settings;
  settings.max_split_bytes = bytes;
  return settings;
}

// An allocator whose events are kept, and whose allocations are numbered as they come.
struct Machine {
  CachingAllocator allocator;
  uint32_t next = 0;
  size_t told = 0;

  explicit Machine(const AllocatorSettings& settings = {}, uint64_t capacity = 1024 * kMiB,
                   Addresses addresses = Addresses::rising)
      : allocator(settings, Driver(capacity, addresses, {}), capacity, 3, 4) {
    allocator.driver().keep_events();
  }

  BlockIndex malloc(uint64_t bytes, uint16_t stream = 0, uint16_t pool = 0) {
    return allocator.malloc(bytes, stream, pool, next++);
  }
  const Block& operator[](BlockIndex block) const { return allocator.block(block); }
  uint64_t address(BlockIndex block) const { return allocator.block(block).address; }
  void request(BlockIndex block) {
    allocator.free_requested(block, allocator.block(block).allocation);
  }
  void complete(BlockIndex block) {
    allocator.free_completed(block, allocator.block(block).allocation);
  }
  void free(BlockIndex block) {
    request(block);
    complete(block);
  }
  // (action, MiB) of what was told since the last call.
  std::vector<std::pair<SegmentAction, uint64_t>> events() {
    std::vector<std::pair<SegmentAction, uint64_t>> found;
    for (; told < allocator.driver().events().size(); ++told) {
      const SegmentEvent& event = allocator.driver().events()[told];
      found.emplace_back(event.action, event.size_bytes / kMiB);
    }
    return found;
  }
};

using Events = std::vector<std::pair<SegmentAction, uint64_t>>;

} // namespace

TEST_CASE("the driver is asked for 2 MiB, a large segment, or whole 2 MiB") {
  Machine machine;
  machine.malloc(1000);
  machine.malloc(kMiB + 1);
  machine.malloc(10 * kMiB, 1);
  machine.malloc(11 * kMiB + 1, 2);
  CHECK(machine.events() == Events{{kAlloc, 2}, {kAlloc, 20}, {kAlloc, 10}, {kAlloc, 12}});
  CHECK(machine.allocator.segments() == 4);
}

TEST_CASE("the front of a block is the allocation, and its tail stays free") {
  Machine machine;
  const BlockIndex first = machine.malloc(kMiB + 1), second = machine.malloc(3 * kMiB);
  CHECK(machine.address(second) == machine.address(first) + kMiB + 512);
  CHECK(machine.events() == Events{{kAlloc, 20}});
  CHECK(machine.allocator.largest_free_bytes() == 16 * kMiB - 512);
}

TEST_CASE("a large block is split only when more than 1 MiB would be left") {
  Machine machine;
  const BlockIndex block = machine.malloc(19 * kMiB);
  machine.free(block);
  machine.free(machine.malloc(20 * kMiB));
  machine.events();
  const BlockIndex exact = machine.malloc(19 * kMiB);
  CHECK(machine[exact].size_bytes == 20 * kMiB); // 19 MiB got 20: 1 MiB is not more
  machine.free(exact);
  CHECK(machine[machine.malloc(18 * kMiB + 512 * 1024)].size_bytes == 18 * kMiB + 512 * 1024);
}

TEST_CASE("the smallest block that fits is taken, and the lowest of equal ones") {
  Machine machine;
  const BlockIndex large = machine.malloc(40 * kMiB), a = machine.malloc(30 * kMiB),
                   b = machine.malloc(30 * kMiB);
  const uint64_t lower = machine.address(a);
  machine.free(large);
  machine.free(b);
  machine.free(a);
  CHECK(machine.address(machine.malloc(30 * kMiB)) == lower);

  Machine falling({}, 1024 * kMiB, Addresses::falling);
  const BlockIndex c = falling.malloc(30 * kMiB), d = falling.malloc(30 * kMiB);
  const uint64_t later = falling.address(d);
  CHECK(later < falling.address(c));
  falling.free(c);
  falling.free(d);
  CHECK(falling.address(falling.malloc(30 * kMiB)) == later);
}

TEST_CASE("pools and streams do not share blocks") {
  Machine machine;
  machine.free(machine.malloc(30 * kMiB));
  machine.malloc(30 * kMiB, 1);
  machine.malloc(30 * kMiB, 0, 1);
  machine.malloc(1000); // small, though a large block is free
  CHECK(machine.events() == Events{{kAlloc, 30}, {kAlloc, 30}, {kAlloc, 30}, {kAlloc, 2}});
}

TEST_CASE("allocated falls when a free is requested, active when it is completed") {
  Machine machine;
  const BlockIndex block = machine.malloc(1000);
  CHECK(machine.allocator.bytes().requested == 1000);
  machine.request(block);
  CHECK(machine.allocator.bytes().allocated == 0);
  CHECK(machine.allocator.bytes().active == 1024);
  CHECK(machine.allocator.bytes().requested == 1000);
  CHECK(machine.allocator.pending() == 1);
  machine.malloc(1000); // not in the pending block
  machine.complete(block);
  CHECK(machine.allocator.bytes().active == 1024);
  CHECK(machine.allocator.bytes().requested == 1000);
  CHECK(machine.allocator.inconsistency().empty());
}

TEST_CASE("free neighbours merge") {
  Machine machine;
  const BlockIndex a = machine.malloc(5 * kMiB), b = machine.malloc(5 * kMiB),
                   c = machine.malloc(5 * kMiB);
  machine.free(a);
  machine.free(c);
  CHECK(machine.allocator.largest_free_bytes() == 10 * kMiB); // c and the tail
  machine.free(b);
  CHECK(machine.allocator.largest_free_bytes() == 20 * kMiB);
  CHECK(machine.allocator.inconsistency().empty());
}

TEST_CASE("a free that is told twice, or of a block that is another's now, does nothing") {
  Machine machine;
  const BlockIndex block = machine.malloc(30 * kMiB);
  machine.free(block);
  const BlockIndex again = machine.malloc(30 * kMiB);
  machine.allocator.free_requested(block, 0);
  machine.allocator.free_completed(block, 0);
  machine.allocator.free_completed(again, 1); // never requested
  CHECK(machine.allocator.bytes().allocated == 30 * kMiB);
}

TEST_CASE("a full driver: what waits is waited for, what is cached goes back, and once more") {
  Machine machine({}, 100 * kMiB);
  const BlockIndex waits = machine.malloc(30 * kMiB), cached = machine.malloc(40 * kMiB);
  machine.request(waits);
  machine.free(cached);
  machine.events();
  CHECK(machine.malloc(90 * kMiB) != kNoBlock);
  CHECK(machine.events() == Events{{kFree, 30}, {kFree, 40}, {kAlloc, 90}});
  CHECK(machine.allocator.retries() == 1);
  CHECK(machine.allocator.pending() == 0);
  CHECK(machine.malloc(20 * kMiB) == kNoBlock);
  CHECK(machine.events() == Events{{SegmentAction::oom, 20}});
  CHECK(machine.allocator.retries() == 2);
}

TEST_CASE("a failed allocation tells its rounded size") {
  Machine machine({}, 4 * kMiB);
  CHECK(machine.malloc(5 * kMiB + 1) == kNoBlock);
  CHECK(machine.allocator.driver().events().back().size_bytes == 5 * kMiB + 512);
}

TEST_CASE("while capturing nothing of the default pools goes back, and nothing is waited for") {
  Machine machine({}, 100 * kMiB);
  machine.request(machine.malloc(30 * kMiB));
  machine.free(machine.malloc(30 * kMiB));
  machine.events();
  machine.allocator.begin_capture();
  CHECK(machine.malloc(90 * kMiB, 0, 1) == kNoBlock);
  CHECK(machine.allocator.retries() == 0);
  machine.allocator.empty_cache();
  CHECK(machine.events() == Events{{SegmentAction::oom, 90}});
  machine.allocator.end_capture();
  CHECK(machine.malloc(90 * kMiB, 0, 1) != kNoBlock);
  CHECK(machine.allocator.retries() == 1);
}

TEST_CASE("a private pool's memory goes back when nobody uses it, small before large") {
  Machine machine;
  machine.allocator.ref_pool(1);
  machine.allocator.ref_pool(1);
  machine.free(machine.malloc(30 * kMiB, 0, 1));
  machine.free(machine.malloc(1000, 0, 1));
  machine.free(machine.malloc(40 * kMiB));
  machine.events();
  machine.allocator.unref_pool(1);
  machine.allocator.empty_cache();
  CHECK(machine.events() == Events{{kFree, 40}});
  machine.allocator.unref_pool(1);
  machine.allocator.empty_cache();
  CHECK(machine.events() == Events{{kFree, 2}, {kFree, 30}});
}

TEST_CASE("a destroyed pool gives back its own memory alone, once its last user is gone") {
  Machine machine;
  machine.allocator.ref_pool(1);
  machine.allocator.ref_pool(1); // a graph uses it too
  const BlockIndex waits = machine.malloc(30 * kMiB, 0, 1);
  const BlockIndex others = machine.malloc(30 * kMiB);
  machine.request(waits);
  machine.request(others);
  machine.events();
  machine.allocator.destroy_pool(1);
  CHECK(machine.events().empty());
  machine.allocator.ref_pool(1);
  machine.allocator.unref_pool(1);
  machine.allocator.destroy_pool(1);
  CHECK(machine.events() == Events{{kFree, 30}});
  CHECK(machine.allocator.pending() == 1);
}

TEST_CASE("empty_cache: large before small, by stream, size and address") {
  Machine machine;
  machine.free(machine.malloc(1000));
  machine.free(machine.malloc(40 * kMiB, 1));
  const BlockIndex thirty = machine.malloc(30 * kMiB);
  machine.free(machine.malloc(50 * kMiB));
  machine.free(thirty);
  const BlockIndex kept = machine.malloc(5 * kMiB, 2); // its segment is not whole
  machine.events();
  machine.allocator.empty_cache();
  CHECK(machine.events() == Events{{kFree, 30}, {kFree, 50}, {kFree, 40}, {kFree, 2}});
  CHECK(machine[kept].state == State::allocated);
}

TEST_CASE("blocks of max_split and more are for requests of that size alone") {
  Machine machine(with_max_split(32 * kMiB));
  machine.free(machine.malloc(100 * kMiB));
  machine.events();
  machine.malloc(20 * kMiB); // below max_split: not served by an oversize block
  machine.malloc(80 * kMiB); // the block is larger by max_non_split_rounding
  CHECK(machine.events() == Events{{kAlloc, 20}, {kAlloc, 80}});
  const BlockIndex close = machine.malloc(81 * kMiB);
  CHECK(machine[close].size_bytes == 100 * kMiB); // whole: it is not split
  AllocatorSettings wider = with_max_split(32 * kMiB);
  wider.max_non_split_rounding_bytes = 40 * kMiB;
  machine.free(close);
  machine.allocator.set_settings(wider);
  CHECK(machine[machine.malloc(64 * kMiB)].size_bytes == 100 * kMiB);
}

TEST_CASE("a refused candidate is the only one that is looked at") {
  Machine machine(with_max_split(32 * kMiB));
  machine.free(machine.malloc(60 * kMiB));
  machine.free(machine.malloc(40 * kMiB));
  machine.events();
  machine.malloc(25 * kMiB); // 40 MiB is the first that is large enough, and is refused
  CHECK(machine.events() == Events{{kAlloc, 26}});
}

TEST_CASE("a full driver and max_split: one oversize block that is large enough") {
  Machine machine(with_max_split(32 * kMiB), 200 * kMiB);
  machine.free(machine.malloc(40 * kMiB, 1)); // another stream's
  machine.free(machine.malloc(60 * kMiB));
  machine.free(machine.malloc(90 * kMiB));
  machine.events();
  machine.malloc(25 * kMiB); // key 32 MiB: the smallest oversize block goes back
  CHECK(machine.events() == Events{{kFree, 60}, {kAlloc, 26}});
  CHECK(machine.allocator.retries() == 0);
}

TEST_CASE("a full driver and max_split: several oversize blocks, the largest first") {
  Machine machine(with_max_split(32 * kMiB), 200 * kMiB);
  std::vector<BlockIndex> oversize;
  for (const uint64_t size : {40, 60, 50})
    oversize.push_back(machine.malloc(size * kMiB));
  for (const BlockIndex block : oversize)
    machine.free(block);
  machine.malloc(24 * kMiB);
  machine.events();
  machine.malloc(100 * kMiB);
  CHECK(machine.events() == Events{{kFree, 60}, {kFree, 50}, {kAlloc, 100}});
  CHECK(machine.allocator.retries() == 0);
  // Not enough of them: they are gone all the same, then everything is.
  machine.malloc(170 * kMiB);
  CHECK(machine.events() == Events{{kFree, 40}, {SegmentAction::oom, 170}});
  CHECK(machine.allocator.retries() == 1);
}

TEST_CASE("a memory fraction limits what is reserved, also by expandable segments") {
  for (const AllocatorSettings& settings : {AllocatorSettings{}, expandable()}) {
    Machine machine(settings, 200 * kMiB);
    machine.allocator.set_memory_fraction(0.5);
    CHECK(machine.malloc(80 * kMiB) != kNoBlock);
    CHECK(machine.malloc(30 * kMiB) == kNoBlock);
    machine.allocator.set_memory_fraction(1.0);
    CHECK(machine.malloc(30 * kMiB) != kNoBlock);
  }
}

TEST_CASE("garbage collection frees the blocks of more than the mean age") {
  AllocatorSettings settings;
  settings.garbage_collection_threshold = 0.5;
  Machine machine(settings, 1000 * kMiB);
  SUBCASE("not without a fraction") {
    machine.free(machine.malloc(600 * kMiB));
    machine.malloc(350 * kMiB, 1);
    CHECK(machine.events() == Events{{kAlloc, 600}, {kAlloc, 350}});
  }
  SUBCASE("with one") {
    machine.allocator.set_memory_fraction(0.999); // threshold 499 MiB
    const BlockIndex old = machine.malloc(200 * kMiB), recent = machine.malloc(270 * kMiB);
    machine.free(old);
    for (int i = 0; i < 4; ++i) // searches in the large pool age it
      machine.free(machine.malloc(15 * kMiB, 1));
    machine.free(recent);
    machine.events();
    machine.allocator.set_memory_fraction(0.9); // threshold 450 MiB
    machine.malloc(301 * kMiB);
    // 490 MiB are over by 40: old goes, and that is enough.
    CHECK(machine.events() == Events{{kFree, 200}, {kAlloc, 302}});
  }
}

TEST_CASE("pools with rules of their own: one has segments of its own, one never splits") {
  Machine machine(expandable());
  machine.allocator.set_pool_rules(1, {.no_split = false, .own_allocator = true});
  machine.allocator.set_pool_rules(2, {.no_split = true, .own_allocator = false});
  CHECK(machine[machine.malloc(3 * kMiB, 0, 1)].size_bytes == 3 * kMiB);
  CHECK(machine.events() == Events{{kAlloc, 20}});
  CHECK(machine[machine.malloc(3 * kMiB, 0, 2)].size_bytes == 20 * kMiB);
  CHECK(machine.allocator.inconsistency().empty());
}

TEST_CASE("expandable: one reservation per stream and pool, mapped as needed") {
  Machine machine(expandable());
  const BlockIndex a = machine.malloc(30 * kMiB), b = machine.malloc(15 * kMiB);
  CHECK(machine.address(b) == machine.address(a) + 30 * kMiB);
  CHECK(machine.events() == Events{{kMap, 40}, {kMap, 20}});
  machine.malloc(1000);
  machine.malloc(30 * kMiB, 1);
  CHECK(machine.events() == Events{{kMap, 2}, {kMap, 40}});
  CHECK(machine.allocator.segments() == 3);
  CHECK(machine.allocator.inconsistency().empty());
}

TEST_CASE("expandable: a large rest of 512 bytes is split off") {
  Machine machine(expandable());
  CHECK(machine[machine.malloc(20 * kMiB - 512)].size_bytes == 20 * kMiB - 512);
  CHECK(machine.allocator.largest_free_bytes() == 512);
}

TEST_CASE("expandable: a free block before what is unmapped is made larger") {
  Machine machine(expandable());
  const BlockIndex block = machine.malloc(40 * kMiB);
  machine.free(block);
  machine.events();
  CHECK(machine.address(machine.malloc(50 * kMiB)) == machine.address(block));
  CHECK(machine.events() == Events{{kMap, 20}});
}

TEST_CASE("expandable: a block that can grow counts as large as it can become") {
  Machine machine(expandable());
  const BlockIndex first = machine.malloc(60 * kMiB), between = machine.malloc(20 * kMiB),
                   last = machine.malloc(40 * kMiB);
  const uint64_t address = machine.address(first);
  machine.free(first);
  machine.free(last); // smaller, but unmapped addresses follow it
  CHECK(machine.address(machine.malloc(30 * kMiB)) == address);
  CHECK(machine[between].state == State::allocated);
}

TEST_CASE("expandable: whole pages inside a free block are unmapped; holes are filled again") {
  Machine machine(expandable(), 400 * kMiB);
  const BlockIndex a = machine.malloc(30 * kMiB), b = machine.malloc(60 * kMiB),
                   c = machine.malloc(30 * kMiB);
  machine.free(b);
  machine.events();
  machine.allocator.empty_cache(); // b is 30..90: pages 40..80
  CHECK(machine.events() == Events{{kUnmap, 40}});
  CHECK(machine.allocator.inconsistency().empty());
  const BlockIndex again = machine.malloc(45 * kMiB);
  CHECK(machine.address(again) == machine.address(a) + 30 * kMiB);
  CHECK(machine.events() == Events{{kMap, 40}});
  machine.free(a);
  machine.free(again);
  machine.free(c);
  machine.allocator.empty_cache();
  CHECK(machine.events() == Events{{kUnmap, 120}});
  CHECK(machine.allocator.segments() == 0);
  CHECK(machine.allocator.inconsistency().empty());
  // The reservation is gone: the next one is another.
  CHECK(machine.address(machine.malloc(30 * kMiB)) != machine.address(a));
}

TEST_CASE("expandable: a map that the driver refuses undoes only itself") {
  Machine machine(expandable(), 100 * kMiB);
  const BlockIndex a = machine.malloc(20 * kMiB), b = machine.malloc(20 * kMiB),
                   c = machine.malloc(20 * kMiB);
  machine.free(b);
  machine.allocator.empty_cache();
  machine.free(c);
  machine.events();
  // The hole is filled, which stands though the 60 MiB after it are refused; then all is released.
  CHECK(machine.malloc(100 * kMiB) == kNoBlock);
  CHECK(machine.events() == Events{{kMap, 20}, {kUnmap, 40}, {SegmentAction::oom, 100}});
  CHECK(machine[a].state == State::allocated);
  CHECK(machine.allocator.inconsistency().empty());
}

TEST_CASE("expandable: more than a whole reservation is not to be had, whatever the driver gives") {
  CachingAllocator allocator(expandable(), Driver(std::nullopt, Addresses::rising, {}), 64 * kMiB,
                             1, 1);
  CHECK(allocator.malloc(100 * kMiB, 0, 0, 0) == kNoBlock); // its reservations are of 80 MiB
  CHECK(allocator.malloc(70 * kMiB, 0, 0, 1) != kNoBlock);
  CHECK(allocator.inconsistency().empty());
}

TEST_CASE("expandable blocks are skipped once the setting is off") {
  Machine machine(expandable(), 200 * kMiB);
  machine.free(machine.malloc(40 * kMiB));
  machine.events();
  machine.allocator.set_settings({});
  const BlockIndex block = machine.malloc(30 * kMiB);
  CHECK(machine.events() == Events{{kAlloc, 30}});
  machine.free(block);
  machine.malloc(28 * kMiB); // the plain one, behind the expandable one
  CHECK(machine.events().empty());
  // Neither oversize release nor garbage collection gives pages back.
  machine.allocator.set_settings(with_max_split(20 * kMiB));
  machine.malloc(150 * kMiB);
  CHECK(machine.events() == Events{{kUnmap, 40}, {kAlloc, 150}});
}

TEST_CASE("large_segment_size is the page of large reservations") {
  AllocatorSettings settings = expandable();
  settings.large_segment_bytes = 64 * kMiB;
  Machine machine(settings);
  machine.malloc(2 * kMiB);
  CHECK(machine.events() == Events{{kMap, 64}});
  settings.expandable_segments = false;
  machine.allocator.set_settings(settings);
  machine.malloc(2 * kMiB);
  CHECK(machine.events() == Events{{kAlloc, 64}});
}

TEST_CASE("a copy is another allocator") {
  Machine machine({}, 100 * kMiB);
  machine.request(machine.malloc(30 * kMiB));
  CachingAllocator before = machine.allocator;
  machine.malloc(90 * kMiB);
  CHECK(machine.allocator.pending() == 0);
  CHECK(before.pending() == 1);
  CHECK(before.bytes().reserved == 30 * kMiB);
  CHECK(before.inconsistency().empty());
}

TEST_CASE("what was held when a recording began") {
  const std::vector<HeldRange> ranges = {{10 * kPage, 20 * kMiB, 0, 0, false, false},
                                         {100 * kPage, 20 * kMiB, 1, 0, false, true},
                                         {120 * kPage, 40 * kMiB, 1, 0, false, true}};
  const std::vector<HeldBlock> blocks = {{10 * kPage, 5 * kMiB, 5 * kMiB - 100, 0},
                                         {10 * kPage + 8 * kMiB, 4 * kMiB, 4 * kMiB, 1},
                                         {100 * kPage + 4 * kMiB, 16 * kMiB, 16 * kMiB, 2}};
  Machine machine(expandable());
  std::vector<BlockIndex> places(3, kNoBlock);
  machine.allocator.seed(ranges, blocks, [&](uint32_t n, BlockIndex b) { places[n] = b; });
  machine.next = 3;
  CHECK(machine.allocator.bytes().reserved == 80 * kMiB);
  CHECK(machine.allocator.bytes().active == 25 * kMiB);
  CHECK(machine.allocator.bytes().requested == 25 * kMiB - 100);
  CHECK(machine.allocator.segments() == 2);
  CHECK(machine.allocator.inconsistency().empty());
  machine.allocator.set_settings({});
  CHECK(machine.address(machine.malloc(3 * kMiB)) == 10 * kPage + 5 * kMiB);
  machine.allocator.set_settings(expandable());
  machine.free(places[0]);
  machine.free(places[1]);
  machine.free(places[2]);
  CHECK(machine.allocator.inconsistency().empty());
  // The hole between the two ranges, 20 MiB wide, is mapped to join them.
  CHECK(machine.address(machine.malloc(75 * kMiB, 1)) == 100 * kPage);
  CHECK(machine.events() == Events{{kMap, 20}});
}

TEST_CASE("of held ranges that overlap the first one stands") {
  const std::vector<HeldRange> ranges = {
      {100 * kPage, 40 * kMiB, 0, 0, false, true},
      {105 * kPage, 100 * kMiB, 0, 0, false, true},          // begins in it
      {120 * kPage, 20 * kMiB, 0, 0, false, true},           // touches it
      {UINT64_MAX - kPage, 100 * kMiB, 0, 0, false, false}}; // ends nowhere
  const std::vector<HeldBlock> blocks = {{104 * kPage, 20 * kMiB, 20 * kMiB, 0},
                                         {125 * kPage, 4 * kMiB, 4 * kMiB, 1}};
  Machine machine(expandable());
  machine.allocator.seed(ranges, blocks, [](uint32_t, BlockIndex) {});
  machine.next = 2;
  CHECK(machine.allocator.bytes().reserved == 60 * kMiB);
  CHECK(machine.allocator.bytes().active == 24 * kMiB);
  CHECK(machine.allocator.inconsistency() == "");
  machine.free(machine.malloc(200 * kMiB));
  machine.allocator.empty_cache();
  CHECK(machine.allocator.inconsistency() == "");
}

TEST_CASE("at random: blocks sum up, do not overlap, and free neighbours merge") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    const auto upto = [&](uint64_t most) { return random() % most; };
    const auto any_settings = [&] {
      AllocatorSettings settings;
      settings.expandable_segments = upto(2) == 0;
      if (upto(2) == 0)
        settings.max_split_bytes = (20 + upto(40)) * kMiB;
      if (upto(2) == 0)
        settings.garbage_collection_threshold = 0.3 + 0.1 * static_cast<double>(upto(6));
      if (upto(3) == 0)
        settings.roundup_power2_divisions.fill(uint64_t{1} << upto(4));
      return settings;
    };
    Machine machine(any_settings(), 700 * kMiB);
    std::vector<BlockIndex> live, pending;
    machine.allocator.set_memory_fraction(upto(2) == 0 ? 1.0 : 0.8);
    for (int step = 0; step < 3000; ++step) {
      const uint64_t what = upto(100);
      const auto take = [&](std::vector<BlockIndex>& from) {
        const size_t at = upto(from.size());
        const BlockIndex block = from[at];
        from[at] = from.back();
        from.pop_back();
        return block;
      };
      if (what < 50) {
        const uint64_t bytes = upto(2) == 0 ? 1 + upto(2 * kMiB) : 1 + upto(60 * kMiB);
        const uint64_t retries = machine.allocator.retries();
        const BlockIndex block =
            machine.malloc(bytes, static_cast<uint16_t>(upto(3)), static_cast<uint16_t>(upto(2)));
        if (machine.allocator.retries() > retries)
          pending.clear(); // they were waited for
        if (block != kNoBlock) {
          CHECK(machine[block].size_bytes >= bytes);
          live.push_back(block);
        }
      } else if (what < 90 && !live.empty()) {
        const BlockIndex block = take(live);
        machine.request(block);
        if (upto(10) == 0)
          pending.push_back(block);
        else
          machine.complete(block);
      } else if (what < 95 && !pending.empty()) {
        machine.complete(take(pending));
      } else if (what == 96) {
        machine.allocator.empty_cache();
        pending.clear();
      } else if (what == 97) {
        machine.allocator.set_settings(any_settings());
      }
      if (step % 100 == 0)
        CHECK(machine.allocator.inconsistency() == "");
    }
    CHECK(machine.allocator.inconsistency() == "");
    // No two live blocks overlap.
    std::set<std::pair<uint64_t, uint64_t>> spans;
    for (const BlockIndex block : live)
      spans.emplace(machine.address(block), machine.address(block) + machine[block].size_bytes);
    uint64_t end = 0;
    for (const auto& [from, to] : spans) {
      CHECK(from >= end);
      end = to;
    }
    for (const BlockIndex block : live)
      machine.free(block);
    machine.allocator.ref_pool(1);
    machine.allocator.destroy_pool(1);
    machine.allocator.empty_cache();
    CHECK(machine.allocator.bytes().reserved == 0);
    CHECK(machine.allocator.segments() == 0);
    CHECK(machine.allocator.inconsistency() == "");
  }
}
