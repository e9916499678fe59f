#include "analyse/conversion.h"

#include "record/clock.h"
#include "store/spool_error.h"

#include <algorithm>

namespace memtrace {
namespace {

// Records between two looks at how full the tables are.
constexpr size_t kStride = 1024;

} // namespace

Conversion::Conversion(const SpoolReader& reader, size_t batch_rows, size_t part_rows)
    : rows_(reader.text(), reader.tick_scale(), std::max(batch_rows, kStride), part_rows) {
  rows_.begin(reader);
  merge_ = std::make_unique<RecordMerge>(reader);
}

std::vector<Batch> Conversion::advance() {
  std::vector<Batch> batches;
  while (!finished_ && batches.empty()) {
    for (size_t i = 0; i < kStride; ++i) {
      const Record* next = merge_->next();
      if (!next) {
        finished_ = true;
        rows_.finish(batches);
        return batches;
      }
      rows_.add(*next);
    }
    rows_.take_full(batches);
  }
  return batches;
}

FollowedConversion::FollowedConversion(const std::string& directory, const SpoolReader& until_now,
                                       size_t batch_rows, size_t part_rows, uint64_t settle_ns)
    : follower_(directory, settle_ns), compactor_(directory),
      rows_(follower_.text(), until_now.tick_scale(), std::max(batch_rows, kStride), part_rows) {
  rows_.begin(until_now);
}

void FollowedConversion::look(bool ended) {
  follower_.look(ended);
  rows_.scale().add(follower_.latest_anchor());
  rows_.read_on(follower_.notes());
}

// Of what is settled, up to where the other conversion looks at its tables: parts begin at the same
// rows. False: that was all.
bool FollowedConversion::add_some() {
  do {
    const Record* next = follower_.next();
    if (!next)
      return false;
    rows_.add(*next);
    ++added_;
  } while (consumed() % kStride != 0);
  return true;
}

std::vector<Batch> FollowedConversion::take_all() {
  std::vector<Batch> batches;
  rows_.take_all(batches);
  return batches;
}

std::vector<Batch> FollowedConversion::advance(bool ended, uint64_t most_ns) {
  std::vector<Batch> batches;
  const uint64_t begin_ns = clock_ns(CLOCK_MONOTONIC);
  idle_ = false;
  while (!finished_ && !idle_ && batches.empty()) {
    if (!more_) {
      if (clock_ns(CLOCK_MONOTONIC) - begin_ns > most_ns)
        break;
      look(ended);
      added_ = 0;
    }
    more_ = add_some();
    if (more_)
      rows_.take_full(batches);
    if (more_ || added_ > 0)
      continue;
    rows_.tensors().apply_before(follower_.settled_ticks());
    if (!ended) {
      idle_ = true;
    } else if (!follower_.behind()) {
      finished_ = true;
      rows_.finish(batches);
    } else if (++fruitless_looks_ > kMostFruitlessLooks) {
      throw SpoolError("the recording cannot be read as it was written: it is damaged");
    }
  }
  return batches;
}

} // namespace memtrace
