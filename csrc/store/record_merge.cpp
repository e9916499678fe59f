#include "store/record_merge.h"

#include <algorithm>

namespace memtrace {
namespace {

bool later(uint64_t a, uint64_t b) {
  return a > b;
}

// `ticks` is the first word of every kind of record.
uint64_t ticks_of(const Record& record) {
  return record.event.ticks;
}

bool has_order(const Record& record) {
  const Tail& tail = record.event.tail;
  return tail.device != kCpu && is_allocator_event(tail.action);
}

} // namespace

RecordMerge::RecordMerge(const std::vector<LogRecords>& logs, const Orders& orders,
                         const SpoolReader* reader)
    : reader_(reader), orders_(orders) {
  cursors_.reserve(logs.size());
  for (const LogRecords& log : logs) {
    make_ready(log.front());
    cursors_.push_back({&log, 0, 0, 0, ticks_of(log.front().records[0])});
  }
  for (Cursor& cursor : cursors_)
    push(&cursor);
}

const Record& RecordMerge::head(const Cursor& cursor) {
  return (*cursor.log)[cursor.chunk].records[cursor.place];
}

bool RecordMerge::step(Cursor& cursor) {
  const ChunkRecords& chunk = (*cursor.log)[cursor.chunk];
  ++cursor.taken;
  if (++cursor.place == chunk.count) {
    consumed_ = &chunk; // the record just handed out lies in it: released at the next call
    cursor.place = 0;
    if (++cursor.chunk == cursor.log->size())
      return false;
    make_ready((*cursor.log)[cursor.chunk]);
  }
  cursor.key = std::max(cursor.key, ticks_of(head(cursor)));
  return true;
}

// How far a record is ahead of its device's order; 0 or less: it is its turn. The recorder counts
// on from recording to recording, so the first number of a device is not known.
int64_t RecordMerge::ahead(const Record& record) const {
  const Order& order = orders_[record.event.tail.device];
  return order.known ? static_cast<int32_t>(record.event.order - order.expected)
                     : int64_t{1} + record.event.order;
}

// Whether another log holds, close by, an event that the device saw before the head of this one.
bool RecordMerge::earlier_is_near(const Cursor& cursor) const {
  size_t left = kMostLookedAt;
  for (const auto* logs : {&heap_, &held_})
    for (const Cursor* other : *logs)
      if (other != &cursor && holds_earlier(*other, cursor, left))
        return true;
  return false;
}

// `left`: how many records may still be looked at; to get to a log is as long as many of them.
bool RecordMerge::holds_earlier(const Cursor& other, const Cursor& cursor, size_t& left) const {
  const AllocatorEvent& event = head(cursor).event;
  size_t chunk = other.chunk, place = other.place;
  left -= std::min(left, kRecordsPerLog);
  for (size_t seen = 0; seen < kWindowRecords && left > 0; ++seen, --left) {
    const Record& record = (*other.log)[chunk].records[place];
    if (ticks_of(record) > cursor.key && ticks_of(record) - cursor.key > kWindowTicks)
      return false;
    if (has_order(record) && record.event.tail.device == event.tail.device &&
        static_cast<int32_t>(record.event.order - event.order) < 0)
      return true;
    if (++place == (*other.log)[chunk].count) {
      place = 0;
      if (++chunk == other.log->size())
        return false;
      make_ready((*other.log)[chunk]);
    }
  }
  return false;
}

const Record* RecordMerge::next(uint64_t most_ticks) {
  if (consumed_ && reader_)
    reader_->release(*consumed_);
  consumed_ = nullptr;
  if (!held_.empty())
    if (const Record* record = take_held())
      return record;
  while (!heap_.empty()) {
    Cursor& cursor = *heap_.front();
    if (cursor.key > most_ticks)
      return nullptr;
    const Record& record = head(cursor);
    if (!has_order(record) || ahead(record) <= 0 || held_.size() >= kMostHeld ||
        !earlier_is_near(cursor))
      return take(cursor, true);
    held_.push_back(&cursor);
    pop();
    if (const Record* ready = take_held())
      return ready;
  }
  return nullptr;
}

// A held log whose turn has come, or whose turn was waited for in vain.
const Record* RecordMerge::take_held() {
  size_t first = held_.size();
  int64_t least = 0;
  bool overdue = heap_.empty();
  for (size_t i = 0; i < held_.size(); ++i) {
    const int64_t distance = ahead(head(*held_[i]));
    if (!heap_.empty() && heap_.front()->key > held_[i]->key + kWindowTicks)
      overdue = true;
    if (first == held_.size() || distance < least) {
      first = i;
      least = distance;
    }
  }
  if (first == held_.size() || (least > 0 && !overdue && earlier_is_near(*held_[first])))
    return nullptr;
  Cursor& cursor = *held_[first];
  held_.erase(held_.begin() + static_cast<ptrdiff_t>(first));
  return take(cursor, false);
}

const Record* RecordMerge::take(Cursor& cursor, bool from_heap) {
  const Record& record = head(cursor);
  if (has_order(record)) {
    Order& order = orders_[record.event.tail.device];
    const int64_t skipped = ahead(record);
    if (order.known && skipped > 0)
      order_gaps_ += static_cast<uint64_t>(skipped);
    if (skipped >= 0)
      order = {true, record.event.order + 1};
  }
  const bool more = step(cursor);
  if (from_heap && more)
    sift_down(0);
  else if (from_heap)
    pop();
  else if (more)
    push(&cursor);
  return &record;
}

void RecordMerge::sift_down(size_t at) {
  Cursor* moving = heap_[at];
  const size_t size = heap_.size();
  for (size_t child = 2 * at + 1; child < size; at = child, child = 2 * at + 1) {
    if (child + 1 < size && later(heap_[child]->key, heap_[child + 1]->key))
      ++child;
    if (!later(moving->key, heap_[child]->key))
      break;
    heap_[at] = heap_[child];
  }
  heap_[at] = moving;
}

void RecordMerge::push(Cursor* cursor) {
  heap_.push_back(cursor);
  std::ranges::push_heap(heap_,
                         [](const Cursor* a, const Cursor* b) { return later(a->key, b->key); });
}

void RecordMerge::pop() {
  Cursor* last = heap_.back();
  heap_.pop_back();
  if (!heap_.empty()) {
    heap_.front() = last;
    sift_down(0);
  }
}

} // namespace memtrace
