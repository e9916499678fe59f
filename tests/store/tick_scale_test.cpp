#include "store/tick_scale.h"

#include <doctest/doctest.h>
#include <random>

using namespace memtrace;

TEST_CASE("nanosecond ticks only lose their origin") {
  const TickScale scale(Clock::monotonic_ns, {{100, 100}});
  CHECK(scale.ns(100) == 0);
  CHECK(scale.ns(1100) == 1000);
  CHECK(scale.ns(50) == 0);
}

TEST_CASE("between two anchors time runs at their rate, after the last at the last rate") {
  // 2 ticks a ns, then 4 ticks a ns.
  const TickScale scale(Clock::tsc, {{0, 0}, {2'000'000, 1'000'000}, {6'000'000, 2'000'000}});
  CHECK(scale.ns(1'000'000) == 500'000);
  CHECK(scale.ns(2'000'000) == 1'000'000);
  CHECK(scale.ns(4'000'000) == 1'500'000);
  CHECK(scale.ns(10'000'000) == 3'000'000);
  CHECK(scale.ns(1'000'000) == 500'000); // back again
}

TEST_CASE("anchors that contradict each other are dropped") {
  const TickScale scale(Clock::tsc, {{0, 0}, {2'000'000, 1'000'000}, {3'000'000, 10}});
  CHECK(scale.ns(4'000'000) == 2'000'000);
}

TEST_CASE("anchors too near to tell a rate are not asked") {
  // 3 ticks a ns in truth; an anchor 1 us after the start is off by 60 ns.
  const TickScale scale(Clock::tsc, {{0, 0}, {3'000, 1'060}, {3'000'000'000, 1'000'000'000}});
  CHECK(scale.ns(1'500'000'000) == 500'000'000);
}

TEST_CASE("time never runs backwards, whatever the anchors") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<ClockAnchor> anchors;
    for (int i = 0; i < 10; ++i)
      anchors.push_back({random() >> (random() % 64), random() >> (random() % 64)});
    const TickScale scale(Clock::tsc, anchors);
    uint64_t ticks = 0;
    int64_t last = 0;
    while (ticks < (UINT64_MAX >> 1)) {
      const int64_t ns = scale.ns(ticks);
      CHECK(ns >= last);
      last = ns;
      ticks += 1 + ticks / 8;
    }
  }
}
