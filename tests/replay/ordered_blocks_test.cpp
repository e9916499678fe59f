#include "replay/ordered_blocks.h"

#include <doctest/doctest.h>
#include <random>
#include <set>

using namespace memtrace::replay;

namespace {

std::vector<BlockKey> all(const OrderedBlocks& blocks) {
  std::vector<BlockKey> found;
  blocks.for_each([&](const BlockKey& key) { found.push_back(key); });
  return found;
}

} // namespace

TEST_CASE("the order is by size, then address; steps go both ways") {
  OrderedBlocks blocks;
  CHECK(blocks.empty());
  CHECK(blocks.last() == nullptr);
  CHECK(blocks.at_end(blocks.lower_bound(0)));
  blocks.insert({2048, 5, 0});
  blocks.insert({512, 9, 1});
  blocks.insert({2048, 3, 2});
  auto at = blocks.lower_bound(1024);
  CHECK(blocks[at].block == 2);
  CHECK(blocks[blocks.next(at)].block == 0);
  CHECK(blocks.at_end(blocks.next(blocks.next(at))));
  CHECK(blocks.step_back(at));
  CHECK(blocks[at].block == 1);
  CHECK(!blocks.step_back(at));
  CHECK(blocks.last()->block == 0);
}

TEST_CASE("at random: the same as a set") {
  std::mt19937 random(7);
  for (const size_t most : {3, 100, 5000}) {
    OrderedBlocks blocks;
    std::set<BlockKey> expected;
    for (uint32_t step = 0; step < 20000; ++step) {
      const BlockKey key{random() % 40, random() % most, 0};
      if (expected.insert(key).second) {
        blocks.insert(key);
      } else {
        expected.erase(key);
        blocks.erase(key);
      }
      const uint64_t size = random() % 40;
      const auto found = blocks.lower_bound(size);
      const auto wanted = expected.lower_bound({size, 0, 0});
      REQUIRE(blocks.at_end(found) == (wanted == expected.end()));
      if (wanted != expected.end())
        REQUIRE(blocks[found] == *wanted);
      auto before = found;
      REQUIRE(blocks.step_back(before) == (wanted != expected.begin()));
      if (wanted != expected.begin())
        REQUIRE(blocks[before] == *std::prev(wanted));
    }
    CHECK(all(blocks) == std::vector<BlockKey>(expected.begin(), expected.end()));
    for (const BlockKey& key : expected)
      blocks.erase(key);
    CHECK(blocks.empty());
  }
}
