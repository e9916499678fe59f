// A spool into rows: of a process that ended, and of one that runs.
//
//     SpoolReader -> RecordMerge -> DatasetRows      Conversion: all that there is
//     SpoolFollower -> DatasetRows                   FollowedConversion: as it comes
//
// Streaming: advance() reads on until some batch is full. One thread at a time.
#pragma once

#include "analyse/dataset_rows.h"
#include "store/record_merge.h"
#include "store/spool_compactor.h"
#include "store/spool_follower.h"
#include "store/spool_reader.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace memtrace {

class Conversion {
 public:
  // `reader` must outlive this.
  Conversion(const SpoolReader& reader, size_t batch_rows, size_t part_rows);

  // Reads on; the batches that are full, and at the end all the rest.
  std::vector<Batch> advance();
  bool finished() const { return finished_; }
  uint64_t consumed() const { return rows_.reading().records(); } // records
  uint64_t order_gaps() const { return merge_->order_gaps(); }
  DatasetRows& rows() { return rows_; }

 private:
  DatasetRows rows_;
  std::unique_ptr<RecordMerge> merge_; // begins when all others have let go of the chunks
  bool finished_ = false;
};

// Gives the rows that the other one gives, for a process of which what belongs to an event is
// written at most kSettleNs after it: where a model is looked at later than that, rows of before
// are named without it, and CPU memory that was there before the recording begins when it was
// found. What was read is packed behind it (spool_compactor.h).
class FollowedConversion {
 public:
  static constexpr uint64_t kSettleNs = 10'000'000'000;

  // Throws SpoolError.
  FollowedConversion(const std::string& directory, size_t batch_rows, size_t part_rows,
                     uint64_t settle_ns = kSettleNs)
      : FollowedConversion(directory, SpoolReader(directory), batch_rows, part_rows, settle_ns) {}

  // Reads on until some batch is full, there is nothing more to read, or for about so long.
  // `ended`: the writer publishes nothing more; then to the end.
  std::vector<Batch> advance(bool ended, uint64_t most_ns);
  bool finished() const { return finished_; }
  // All that was settled at the last call was read.
  bool idle() const { return idle_; }
  // The rows of all that was read, but of finished allocations that wait to be put in order.
  std::vector<Batch> take_all();
  // Packs what was read; false: it cannot be packed, and the spool stays as it is.
  bool compact() { return compactor_.compact(follower_); }
  uint64_t consumed() const { return rows_.reading().records(); }
  uint64_t order_gaps() const { return follower_.order_gaps(); }
  uint64_t missing_chunks() const { return follower_.missing_chunks(); }
  DatasetRows& rows() { return rows_; }

 private:
  static constexpr int kMostFruitlessLooks = 100;

  // `until_now`: all that can be known of the time before the recording.
  FollowedConversion(const std::string& directory, const SpoolReader& until_now, size_t batch_rows,
                     size_t part_rows, uint64_t settle_ns);
  void look(bool ended);
  bool add_some();

  SpoolFollower follower_;
  SpoolCompactor compactor_;
  DatasetRows rows_;
  size_t added_ = 0; // since the last look
  int fruitless_looks_ = 0;
  bool more_ = false, idle_ = false, finished_ = false;
};

} // namespace memtrace
