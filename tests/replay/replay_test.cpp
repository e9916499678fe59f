// What a replay makes of requests: comparison with a recording, frees that were waited for, ends.
#include "replay/replay.h"

#include <doctest/doctest.h>

using namespace memtrace;
using namespace memtrace::replay;

namespace {

// Requests as one writes them down; `requests()` has the columns.
struct Program {
  std::vector<uint8_t> kind;
  std::vector<uint32_t> detail;
  std::vector<uint64_t> size_bytes, address;
  std::vector<uint16_t> stream, pool;
  std::vector<double> fractions;
  std::vector<AllocatorSettings> settings;
  std::vector<SegmentEvent> segment_events;
  uint32_t allocations = 0;

  void add(RequestKind what, uint32_t which = 0, uint64_t bytes = 0, uint16_t on = 0) {
    kind.push_back(static_cast<uint8_t>(what));
    detail.push_back(which);
    size_bytes.push_back(bytes);
    address.push_back(0);
    stream.push_back(on);
    pool.push_back(0);
  }
  uint32_t malloc(uint64_t bytes, uint64_t at = 0) {
    add(RequestKind::malloc, allocations, bytes);
    address.back() = at;
    return allocations++;
  }
  void failed(uint64_t bytes) { add(RequestKind::failed_malloc, allocations++, bytes); }
  void request(uint32_t which) { add(RequestKind::free_requested, which); }
  void complete(uint32_t which) { add(RequestKind::free_completed, which); }
  void free(uint32_t which) {
    request(which);
    complete(which);
  }
  void recorded(SegmentAction action, uint64_t at, uint64_t bytes) {
    segment_events.push_back({action, 0, at, bytes});
  }
  Requests requests() const {
    Requests found;
    found.kind = kind;
    found.detail = detail;
    found.size_bytes = size_bytes;
    found.stream = stream;
    found.pool = pool;
    found.address = address;
    found.fractions = fractions;
    found.settings = settings;
    found.segment_events = segment_events;
    found.allocations = allocations;
    return found;
  }
};

Options recorded_options() {
  Options options;
  options.addresses = Addresses::recorded;
  options.total_bytes = 1024 * kMiB;
  return options;
}

Options capacity(uint64_t bytes) {
  Options options;
  options.capacity_bytes = bytes;
  options.total_bytes = bytes;
  return options;
}

constexpr uint64_t kA = uint64_t{1} << 40, kB = kA + 1024 * kMiB;

} // namespace

TEST_CASE("peaks, each with the request that reached it") {
  Program program;
  const uint32_t a = program.malloc(30 * kMiB); // 0
  program.free(a);
  program.malloc(25 * kMiB); // 3
  program.malloc(3 * kMiB);  // 4: in what 25 MiB left
  const Outcome out = replay::replay(program.requests(), capacity(1024 * kMiB));
  CHECK(out.allocated.bytes == 30 * kMiB);
  CHECK(out.allocated.request == 0);
  CHECK(out.reserved.bytes == 30 * kMiB);
  CHECK(out.last.allocated == 28 * kMiB);
  CHECK(out.last.reserved == 30 * kMiB);
  CHECK(out.segments == 1);
}

TEST_CASE("what lay unused when reserved memory was at its peak") {
  Program program;
  const uint32_t a = program.malloc(30 * kMiB);
  program.malloc(15 * kMiB);
  program.free(a);
  program.malloc(60 * kMiB); // 5
  const Outcome out = replay::replay(program.requests(), capacity(1024 * kMiB));
  CHECK(out.reserved.bytes == 30 * kMiB + 16 * kMiB + 60 * kMiB);
  CHECK(out.reserved.request == 4);
  CHECK(out.unused_bytes == 30 * kMiB); // the other segment has no rest that would be split off
  CHECK(out.largest_unused_bytes == 30 * kMiB);
}

TEST_CASE("a recording that is reproduced, and where one is left") {
  Program program;
  const uint32_t a = program.malloc(30 * kMiB, kA);
  program.free(a);
  program.add(RequestKind::empty_cache);
  program.malloc(40 * kMiB, kB);
  program.recorded(SegmentAction::alloc, kA, 30 * kMiB);
  program.recorded(SegmentAction::free, kA, 30 * kMiB);
  program.recorded(SegmentAction::alloc, kB, 40 * kMiB);
  Outcome out = replay::replay(program.requests(), recorded_options());
  CHECK(out.compared == 3);
  CHECK(!out.divergence);

  SUBCASE("another event") {
    program.segment_events[1].size_bytes = 20 * kMiB;
    out = replay::replay(program.requests(), recorded_options());
    REQUIRE(out.divergence);
    CHECK(out.compared == 1);
    CHECK(out.diverged_at == 3);
    CHECK(out.divergence->predicted == SegmentEvent{SegmentAction::free, 0, kA, 30 * kMiB});
    CHECK(out.divergence->recorded == program.segment_events[1]);
  }
  SUBCASE("an event that was not predicted") {
    program.recorded(SegmentAction::free, kB, 40 * kMiB);
    out = replay::replay(program.requests(), recorded_options());
    REQUIRE(out.divergence);
    CHECK(!out.divergence->predicted);
    CHECK(out.compared == 3);
  }
  SUBCASE("an event that was not recorded") {
    program.segment_events.pop_back();
    Options options = recorded_options();
    options.capacity_bytes = 1024 * kMiB;
    out = replay::replay(program.requests(), options);
    REQUIRE(out.divergence);
    CHECK(!out.divergence->recorded);
  }
  SUBCASE("an allocation at another address") {
    program.address[0] = kA + 512;
    out = replay::replay(program.requests(), recorded_options());
    REQUIRE(out.divergence);
    CHECK(out.divergence->predicted_address == kA);
    CHECK(out.divergence->recorded_address == kA + 512);
  }
}

TEST_CASE("without a capacity the recording says when the driver refused") {
  Program program;
  const uint32_t a = program.malloc(30 * kMiB, kA);
  program.free(a);
  program.malloc(40 * kMiB, kB);
  program.failed(70 * kMiB);
  program.recorded(SegmentAction::alloc, kA, 30 * kMiB);
  program.recorded(SegmentAction::free, kA, 30 * kMiB);
  program.recorded(SegmentAction::alloc, kB, 40 * kMiB);
  program.recorded(SegmentAction::oom, 0, 70 * kMiB);
  const Outcome out = replay::replay(program.requests(), recorded_options());
  CHECK(!out.divergence);
  CHECK(out.compared == 4);
  CHECK(out.retries == 2);
  CHECK(out.repeated_failures == 1);
}

TEST_CASE("a free before an allocation was waited for, or was ready: as the recording allows") {
  Program program;
  const uint32_t a = program.malloc(30 * kMiB, kA), b = program.malloc(30 * kMiB, kB);
  program.request(a);
  program.request(b);
  program.complete(a);
  program.complete(b);
  program.recorded(SegmentAction::alloc, kA, 30 * kMiB);
  program.recorded(SegmentAction::alloc, kB, 30 * kMiB);
  Options options = recorded_options();
  options.capacity_bytes = 64 * kMiB;
  SUBCASE("both ready: the allocation is served from the cache") {
    program.malloc(30 * kMiB, kA);
    const Outcome out = replay::replay(program.requests(), options);
    CHECK(!out.divergence);
    CHECK(out.retries == 0);
  }
  SUBCASE("both waited for: then everything went back") {
    program.malloc(30 * kMiB, kA);
    program.recorded(SegmentAction::free, kA, 30 * kMiB);
    program.recorded(SegmentAction::free, kB, 30 * kMiB);
    program.recorded(SegmentAction::alloc, kA, 30 * kMiB);
    const Outcome out = replay::replay(program.requests(), options);
    CHECK(!out.divergence);
    CHECK(out.retries == 1);
    CHECK(out.early_waits == 0);
  }
}

TEST_CASE("one free was ready and the other waited for") {
  // 32 MiB settings: the ready block is too large to be split, so only its state tells.
  Program program;
  const uint32_t a = program.malloc(30 * kMiB, kA), b = program.malloc(50 * kMiB, kB);
  program.request(a);
  program.request(b);
  program.complete(a);
  program.complete(b);
  program.malloc(40 * kMiB, kB);
  for (const auto& [at, bytes] : {std::pair{kA, 30 * kMiB}, std::pair{kB, 50 * kMiB}})
    program.recorded(SegmentAction::alloc, at, bytes);
  // From the cache: b was ready, and so a, which came before it, was too.
  Options options = recorded_options();
  options.capacity_bytes = 82 * kMiB;
  const Outcome out = replay::replay(program.requests(), options);
  CHECK(!out.divergence);
  CHECK(out.last.allocated == 40 * kMiB);
}

TEST_CASE("the first failure that the recording did not have ends the replay") {
  Program program;
  program.malloc(30 * kMiB);
  program.malloc(40 * kMiB);
  program.malloc(1000);
  Options options = capacity(64 * kMiB);
  Outcome out = replay::replay(program.requests(), options);
  CHECK(out.stopped);
  REQUIRE(out.failures.size() == 1);
  CHECK(out.failures[0].request == 1);
  CHECK(out.failures[0].size_bytes == 40 * kMiB);
  CHECK(out.last.allocated == 30 * kMiB);
  options.goes_on = true;
  out = replay::replay(program.requests(), options);
  CHECK(!out.stopped);
  CHECK(out.last.allocated == 30 * kMiB + 1024);
}

TEST_CASE("a recorded failure that passes is freed at once") {
  Program program;
  program.failed(60 * kMiB);
  program.malloc(20 * kMiB);
  const Outcome out = replay::replay(program.requests(), capacity(100 * kMiB));
  REQUIRE(out.passed.size() == 1);
  CHECK(out.passed[0].size_bytes == 60 * kMiB);
  CHECK(out.last.allocated == 20 * kMiB);
  CHECK(out.allocated.bytes == 60 * kMiB);
  CHECK(out.reserved.bytes == 60 * kMiB);
  CHECK(out.repeated_failures == 0);
}

TEST_CASE("settings and fractions come as recorded, unless others are given") {
  Program program;
  program.settings.resize(1);
  program.settings[0].large_segment_bytes = 64 * kMiB;
  program.fractions = {0.5};
  program.add(RequestKind::settings);
  program.add(RequestKind::memory_fraction);
  program.malloc(2 * kMiB);
  program.malloc(200 * kMiB);
  Options options = capacity(400 * kMiB);
  Outcome out = replay::replay(program.requests(), options);
  CHECK(out.reserved.bytes == 64 * kMiB);
  CHECK(out.stopped);
  const std::vector<AllocatorSettings> others(1);
  options.settings = others;
  options.fraction = 1.0;
  out = replay::replay(program.requests(), options);
  CHECK(out.reserved.bytes == 220 * kMiB);
  CHECK(!out.stopped);
}

TEST_CASE("totals after each request, and what each allocation held") {
  Program program;
  const uint32_t a = program.malloc(1000);
  program.request(a);
  program.complete(a);
  Options options = capacity(100 * kMiB);
  options.keeps_totals = true;
  const Outcome out = replay::replay(program.requests(), options);
  CHECK(out.totals.allocated == std::vector<uint64_t>{1024, 0, 0});
  CHECK(out.totals.active == std::vector<uint64_t>{1024, 1024, 0});
  CHECK(out.totals.requested == std::vector<uint64_t>{1000, 1000, 0});
  CHECK(out.totals.reserved == std::vector<uint64_t>{2 * kMiB, 2 * kMiB, 2 * kMiB});
  CHECK(out.block_bytes == std::vector<uint64_t>{1024});
}

TEST_CASE("columns that do not fit together are told") {
  Program program;
  program.malloc(1000);
  CHECK(std::string_view(defect(program.requests())).empty());
  Program other = program;
  other.detail[0] = 1;
  CHECK(!std::string_view(defect(other.requests())).empty());
  other = program;
  other.kind[0] = kRequestKinds;
  CHECK(!std::string_view(defect(other.requests())).empty());
  other = program;
  other.stream[0] = 1;
  CHECK(!std::string_view(defect(other.requests())).empty());
  other = program;
  other.pool.clear();
  CHECK(!std::string_view(defect(other.requests())).empty());
  other = program;
  other.add(RequestKind::settings);
  CHECK(!std::string_view(defect(other.requests())).empty());
}
