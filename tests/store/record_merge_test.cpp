#include "store/record_merge.h"

#include "store/spool_builder.h"

#include <doctest/doctest.h>

using namespace memtrace;
using memtrace::test::event_record;
using memtrace::test::SpoolBuilder;

namespace {

// One log of few records is one chunk.
struct Merged {
  std::vector<uint64_t> ticks;
  uint64_t gaps = 0;
};

Merged merge(const std::vector<std::vector<Record>>& logs) {
  SpoolBuilder spool;
  for (uint32_t log = 0; log < logs.size(); ++log)
    spool.records += SpoolBuilder::chunk(log + 1, 0, logs[log]);
  const SpoolReader reader(spool.write());
  RecordMerge merge(reader);
  Merged merged;
  while (const Record* record = merge.next())
    merged.ticks.push_back(record->event.ticks);
  merged.gaps = merge.order_gaps();
  return merged;
}

Record cpu(uint64_t ticks) {
  return event_record(ticks, Action::alloc);
}
Record cuda(uint64_t ticks, uint32_t order, int device = 0) {
  return event_record(ticks, Action::alloc, cuda_device(device), order);
}

using Ticks = std::vector<uint64_t>;

} // namespace

TEST_CASE("logs are merged by ticks") {
  CHECK(merge({{cpu(1), cpu(4), cpu(5)}, {cpu(2), cpu(3)}, {cpu(6)}}).ticks ==
        Ticks{1, 2, 3, 4, 5, 6});
}

TEST_CASE("a log keeps its own order, whatever its ticks") {
  CHECK(merge({{cpu(5), cpu(1)}, {cpu(2), cpu(6)}}).ticks == Ticks{2, 5, 1, 6});
}

TEST_CASE("a device's order wins over ticks") {
  // The second thread had the lock first, though its clock says later.
  CHECK(merge({{cuda(10, 1), cuda(20, 3)}, {cuda(21, 2), cpu(30)}}).ticks == Ticks{10, 21, 20, 30});
}

TEST_CASE("devices have orders of their own") {
  CHECK(merge({{cuda(1, 7, 0), cuda(3, 8, 0)}, {cuda(2, 100, 1), cuda(4, 101, 1)}}).ticks ==
        Ticks{1, 2, 3, 4});
}

TEST_CASE("an order that never comes is given up and counted") {
  const Merged merged = merge({{cuda(1, 1), cuda(2, 5)}, {cpu(3), cpu(100'000'000)}});
  CHECK(merged.ticks.size() == 4);
  CHECK(merged.gaps == 3);
  // Not at the price of everything that came much later.
  CHECK(merged.ticks.back() == 100'000'000);
}

TEST_CASE("what is lost does not delay what other threads did") {
  // Number 2 of the device is nowhere: its neighbours stay at their places in time.
  const Merged merged = merge({{cuda(10, 1), cuda(20, 3), cpu(21)}, {cpu(15), cpu(22), cpu(30)}});
  CHECK(merged.ticks == Ticks{10, 15, 20, 21, 22, 30});
  CHECK(merged.gaps == 1);
}

TEST_CASE("the first number of a device may be any") {
  const Merged merged = merge({{cuda(10, 501)}, {cuda(11, 500), cuda(12, 502)}});
  CHECK(merged.ticks == Ticks{11, 10, 12});
  CHECK(merged.gaps == 0);
}

TEST_CASE("the order may wrap around") {
  const Merged merged = merge({{cuda(1, UINT32_MAX), cuda(4, 1)}, {cuda(5, 0)}});
  CHECK(merged.ticks == Ticks{1, 5, 4});
  CHECK(merged.gaps == 0);
}
