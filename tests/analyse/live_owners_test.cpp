#include "analyse/live_owners.h"

#include "store/spool_builder.h"

#include <doctest/doctest.h>
#include <map>
#include <random>

using namespace memtrace;
using memtrace::test::SpoolBuilder;

namespace {

// The owners of one device, and the same worked out from all that is live.
struct Watched {
  explicit Watched(DeviceCode device = kCpu)
      : text(path()), names(text), owners(names), code(device) {}

  std::string path() const { return spool.write() + "/text.log"; }

  Allocation& begin(std::string_view op, int64_t bytes, Origin origin = Origin::recorded) {
    Allocation& allocation = live[++seq];
    allocation.id = allocation.alloc_seq = seq;
    allocation.device = code;
    allocation.block_bytes = bytes;
    allocation.op = names.intern(op);
    allocation.origin = origin;
    owners.began(allocation);
    held += origin == Origin::external ? 0 : bytes;
    count();
    return allocation;
  }
  void end(int64_t number) {
    Allocation& allocation = live.at(number);
    allocation.free_seq = ++seq;
    owners.freed(allocation);
    held -= allocation.origin == Origin::external ? 0 : allocation.block_bytes;
    live.erase(number);
    count();
  }
  void count() { owners.counted(code, {held, held, held, held}, {seq, seq * 10}); }

  LiveSums now(std::string_view op) { return sum(op, &LiveOwners::Row::now); }
  LiveSums peak(std::string_view op) { return sum(op, &LiveOwners::Row::peak); }
  LiveSums sum(std::string_view op, LiveSums LiveOwners::Row::* which) {
    LiveSums sums;
    for (const LiveOwners::Row& row : owners.rows())
      if (row.owner.op == names.intern(op)) {
        sums.bytes += (row.*which).bytes;
        sums.blocks += (row.*which).blocks;
      }
    return sums;
  }
  int64_t bytes(Category category, LiveSums LiveOwners::Row::* which) const {
    int64_t sum = 0;
    for (const LiveOwners::Row& row : owners.rows())
      if (row.owner.category == category)
        sum += (row.*which).bytes;
    return sum;
  }

  SpoolBuilder spool;
  TextTable text;
  NameStrings names;
  LiveOwners owners;
  DeviceCode code;
  std::map<int64_t, Allocation> live;
  int64_t seq = 0, held = 0;
};

} // namespace

TEST_CASE("the peak keeps who held what, however memory goes on") {
  Watched watched;
  const int64_t first = watched.begin("a", 100).id;
  watched.begin("b", 50);
  watched.end(first);
  watched.begin("c", 60);
  CHECK(watched.owners.device(kCpu).peak.allocated == 150);
  CHECK(watched.owners.device(kCpu).peak_place.seq == 2);
  CHECK(watched.peak("a").bytes == 100);
  CHECK(watched.peak("b").bytes == 50);
  CHECK(watched.peak("c").bytes == 0);
  CHECK(watched.now("a").bytes == 0);
  watched.begin("c", 41); // a new peak: a has no part in it
  CHECK(watched.owners.device(kCpu).peak.allocated == 151);
  CHECK(watched.peak("a").bytes == 0);
  CHECK(watched.peak("c").bytes == 101);
  CHECK(watched.peak("c").blocks == 2);
}

TEST_CASE("of two equal peaks the first counts") {
  Watched watched;
  const int64_t first = watched.begin("a", 100).id;
  watched.end(first);
  watched.begin("b", 100);
  CHECK(watched.owners.device(kCpu).peak_place.seq == 1);
  CHECK(watched.peak("a").bytes == 100);
  CHECK(watched.peak("b").bytes == 0);
}

TEST_CASE("a name that comes later counts for the peak that its allocation was in") {
  Watched watched;
  Allocation& weight = watched.begin("a", 100);
  const int64_t other = watched.begin("a", 50).id;
  watched.end(other);
  Allocation& after = watched.begin("a", 10);
  const StringId kind = watched.names.intern("weight");
  watched.owners.named(weight, watched.names.intern("h.0.fc.weight"), kind);
  watched.owners.named(after, watched.names.intern("h.1.fc.weight"), kind);
  CHECK(watched.bytes(Category::weight, &LiveOwners::Row::now) == 110);
  CHECK(watched.bytes(Category::weight, &LiveOwners::Row::peak) == 100);
  CHECK(watched.bytes(Category::none, &LiveOwners::Row::peak) == 50);
  CHECK(watched.peak("a").bytes == 150);
  const auto& row = watched.owners.rows()[weight.owner];
  CHECK(watched.names[row.owner.module] == "h.0.fc");
}

TEST_CASE(
    "of two categories the earlier stands; what only lifetimes prove is not taken from names") {
  Watched watched;
  Allocation& allocation = watched.begin("a", 100);
  const auto named = [&](const char* kind) {
    watched.owners.named(allocation, watched.names.intern("x"), watched.names.intern(kind));
    return watched.owners.rows()[allocation.owner].owner.category;
  };
  CHECK(named("label") == Category::none);
  CHECK(named("activation") == Category::none);
  CHECK(named("output") == Category::output);
  CHECK(named("gradient") == Category::gradient);
  CHECK(named("input") == Category::gradient);
  allocation.label_category = Category::buffer; // the user's word
  CHECK(named("label") == Category::buffer);
}

TEST_CASE("memory from before the recording, found later, was in the peak as well") {
  Watched watched;
  const int64_t first = watched.begin("a", 100).id;
  watched.end(first);
  Allocation& weight = watched.begin("", 30, Origin::preexisting);
  CHECK(watched.owners.device(kCpu).peak.allocated == 130);
  CHECK(watched.owners.device(kCpu).peak_place.seq == 1);
  CHECK(watched.owners.found_late().size() == 1);
  watched.owners.named(weight, watched.names.intern("w"), watched.names.intern("weight"));
  CHECK(watched.bytes(Category::weight, &LiveOwners::Row::peak) == 30);
  watched.owners.set_complete(false); // events were lost: it may be one of theirs
  watched.begin("", 30, Origin::preexisting);
  CHECK(watched.owners.device(kCpu).peak.allocated == 130);
}

TEST_CASE("memory of others is beside the allocator's") {
  Watched watched;
  const int64_t file = watched.begin("", 1000, Origin::external).id;
  watched.begin("a", 1);
  CHECK(watched.owners.device(kCpu).external.bytes == 1000);
  CHECK(watched.owners.device(kCpu).peak.allocated == 1);
  watched.end(file);
  CHECK(watched.owners.device(kCpu).external.bytes == 0);
}

TEST_CASE("sums at the peak are those of all that was live then, for any order of events") {
  std::mt19937_64 random(7);
  const std::vector<std::string> ops = {"a", "b", "c", "d", "e"};
  Watched watched(cuda_device(0));
  std::map<std::string, int64_t> at_peak;
  int64_t most = 0;
  for (int i = 0; i < 20'000; ++i) {
    const bool grow = watched.live.empty() || random() % 100 < (i / 500 % 2 == 0 ? 60U : 40U);
    if (grow) {
      watched.begin(ops[random() % ops.size()], static_cast<int64_t>(random() % 1000));
    } else {
      auto at = watched.live.begin();
      std::advance(at, static_cast<ptrdiff_t>(random() % watched.live.size()));
      watched.end(at->first);
    }
    if (watched.held > most) {
      most = watched.held;
      for (const auto& op : ops)
        at_peak[op] = 0;
      for (const auto& [number, allocation] : watched.live)
        at_peak[watched.names[allocation.op]] += allocation.block_bytes;
    }
    if (i % 100 == 0)
      for (const auto& op : ops)
        REQUIRE(watched.peak(op).bytes == at_peak[op]);
  }
  CHECK(watched.owners.device(cuda_device(0)).peak.allocated == most);
}
