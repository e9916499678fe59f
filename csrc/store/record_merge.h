// All records of a spool in one order: by ticks, each log in its own order.
//
// For a CUDA device AllocatorEvent::order, counted under torch's lock, is the truth: where ticks
// disagree with it, the log that is ahead of its turn is held back until its turn comes. Clocks of
// cores disagree by microseconds, so what must come first is looked for in a short window; a number
// that is not there was lost with its record and is counted. What is looked at for one record is
// bounded: a spool may be damaged so that all its logs are ahead at once.
#pragma once

#include "store/spool_reader.h"

#include <array>
#include <vector>

namespace memtrace {

class RecordMerge {
 public:
  static constexpr uint64_t kWindowTicks = 1'000'000;          // less than a millisecond
  static constexpr size_t kWindowRecords = 1024;               // in each log
  static constexpr size_t kMostLookedAt = 64 * kWindowRecords; // in all logs
  static constexpr size_t kRecordsPerLog = 32;
  static constexpr size_t kMostHeld = 64; // logs that wait for their turn

  // How far the devices' orders have come.
  struct Order {
    bool known = false;
    uint32_t expected = 0;
  };
  using Orders = std::array<Order, 256>;

  explicit RecordMerge(const SpoolReader& reader) : RecordMerge(reader.logs(), {}, &reader) {}
  // The next part of logs whose earlier parts another merge has handed out. None may be empty.
  RecordMerge(const std::vector<LogRecords>& logs, const Orders& orders)
      : RecordMerge(logs, orders, nullptr) {}

  // The next record of at most that many ticks, or null. Valid as long as the logs.
  const Record* next(uint64_t most_ticks = UINT64_MAX);

  // How many records of a log were handed out.
  size_t taken(size_t log) const { return cursors_[log].taken; }
  const Orders& orders() const { return orders_; }
  // Numbers that are missing in the devices' orders: CUDA events that were lost.
  uint64_t order_gaps() const { return order_gaps_; }

 private:
  struct Cursor {
    const LogRecords* log = nullptr;
    size_t chunk = 0;
    size_t place = 0;
    size_t taken = 0;
    uint64_t key = 0; // ticks of the head, never less than of the record before it
  };

  RecordMerge(const std::vector<LogRecords>& logs, const Orders& orders, const SpoolReader* reader);
  static const Record& head(const Cursor& cursor);
  void make_ready(const ChunkRecords& chunk) const {
    if (reader_)
      reader_->make_ready(chunk);
  }
  bool step(Cursor& cursor);
  int64_t ahead(const Record& record) const;
  bool earlier_is_near(const Cursor& cursor) const;
  bool holds_earlier(const Cursor& other, const Cursor& cursor, size_t& left) const;
  const Record* take(Cursor& cursor, bool from_heap);
  const Record* take_held();
  void sift_down(size_t at);
  void push(Cursor* cursor);
  void pop();

  const SpoolReader* reader_; // that takes back what was consumed
  std::vector<Cursor> cursors_;
  std::vector<Cursor*> heap_, held_;
  Orders orders_{};
  const ChunkRecords* consumed_ = nullptr;
  uint64_t order_gaps_ = 0;
};

} // namespace memtrace
