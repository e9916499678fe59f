// The records of a running process, as they come: each is read once, in the order of a merge.
//
// Reads what other processes read as well, and takes no lock: the recording does not notice. A look
// takes what was published since the last one, from each log a bounded part:
//
//     records.bin  [log 2, chunk 0][log 3, chunk 0][log 2, chunk 1]  appended: whole
//     packed-N.bin [log 4, chunk 0][log 2, chunk 0]                  packed: whole
//     windows.bin  [log 2, chunk 2 . . .][log 3, chunk 1 . . . .  ]  written to at this moment
//
// A window is cleared after it was appended, or packed by the finaliser (window_packer.h). So where
// the windows held the same chunks before and after the others were listed, all chunks that there
// were are in one of them; one that is in no window is whole in the list. A window may be cleared
// while it is copied: its header is read again after that, and the chunk is then found elsewhere.
//
// The finaliser also packs what it has read of records.bin (spool_compactor.h): a chunk that is
// taken out of there was put into packed-N.bin before, which is listed after it.
//
// A record is settled, and handed out, when everything that happened before it is published. What
// happens after another event is stamped after that event was published; so at a look all that was
// stamped before it can be put in order. kSettleNs more are waited for what says something of the
// events from beside them (notes on tensors, threads that were stopped in between).
#pragma once

#include "store/packed_files.h"
#include "store/record_merge.h"
#include "store/spool_reader.h"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace memtrace {

class SpoolFollower {
 public:
  static constexpr uint64_t kSettleNs = 20'000'000;

  // Throws SpoolError, also when the spool is not made yet. `settle_ns`: how much later than an
  // event what belongs to it may be published.
  explicit SpoolFollower(const std::string& directory, uint64_t settle_ns = kSettleNs);

  // Takes the next part. `ended`: the writer publishes nothing more, so all is settled. What next()
  // handed out before is gone.
  void look(bool ended);
  // The next record that is settled, or null: look again.
  const Record* next();
  // There was more than one look takes: the next one need not wait.
  bool behind() const { return behind_; }
  // What the recorder's own log has ready, settled or not.
  std::span<const Record> notes() const;

  const Control& control() const { return control_; } // as of the last look
  const TextTable& text() const { return text_; }
  // Everything until then was handed out, when next() gives null.
  uint64_t settled_ticks() const { return settled_ticks_; }
  TickScale tick_scale() const { return {control_.clock, {control_.start, latest_anchor()}}; }
  ClockAnchor latest_anchor() const; // not before anything that is settled

  uint64_t order_gaps() const { return order_gaps_ + (merge_ ? merge_->order_gaps() : 0); }
  uint64_t missing_chunks() const { return missing_chunks_; }
  uint64_t bytes_read() const { return bytes_read_; }
  // Of chunks that were full when they were found.
  uint64_t bytes_published() const { return bytes_published_; }
  // A chunk was read to its end.
  bool is_past(uint32_t log, uint64_t index) const {
    const auto found = logs_.find(log);
    return found != logs_.end() && found->second.chunk > index;
  }

 private:
  static constexpr size_t kMostPending = 4 * RecordMerge::kWindowRecords; // of a log
  static constexpr size_t kRoom = size_t{1} << 36, kWindowsRoom = size_t{1} << 34;

  struct Place {
    bool packed;
    size_t at; // offset in records.bin, or number of a packed chunk
  };
  struct Log {
    uint64_t chunk = 0; // that is read next, from `place` on
    size_t place = 0;
    std::map<uint64_t, Place> appended; // not yet read to their end, by index
    std::vector<Record> pending;        // read, and not handed out
    bool more = false;
  };
  using Windows = std::map<std::pair<uint32_t, uint64_t>, size_t>; // (log, chunk) -> offset

  void drop_taken();
  bool list(Windows& windows);
  void list_appended();
  void list_packed();
  template <class Header> void list_chunk(const Header& header, Place place, size_t bytes);
  Windows list_windows();
  // False: it cannot be told by now where all is that was published.
  bool fill(uint32_t number, Log& log, const Windows& windows);
  bool take_window(uint32_t number, Log& log, size_t offset);
  // That chunk wherever it lies by now; false: nowhere.
  bool take_appended(uint32_t number, Log& log);
  bool take_raw(uint32_t number, Log& log, size_t offset);
  void take_packed(Log& log, size_t number);
  void keep_published(Log& log, size_t before, size_t end);
  static uint64_t next_known(uint32_t number, const Log& log, const Windows& windows);
  uint64_t clock_now() const;
  size_t room() const { return control_.chunk_bytes / kRecordBytes - 1; }

  MappedFile control_file_;
  Control control_{};
  MappedFile windows_file_, records_file_;
  PackedFiles packed_files_;
  TextTable text_;
  bool same_clock_; // as this process's
  uint64_t settle_ns_;
  size_t listed_bytes_ = 0;  // of records.bin
  size_t listed_packed_ = 0; // chunks
  ClockAnchor last_anchor_{};
  std::map<uint32_t, Log> logs_;
  std::vector<LogRecords> ready_; // of the logs that have something pending
  std::vector<Log*> ready_logs_;
  std::optional<RecordMerge> merge_;
  uint64_t settled_ticks_ = 0;
  bool behind_ = false;
  bool listed_since_ = false; // some chunks, since all were listed: others may have moved meanwhile
  uint64_t order_gaps_ = 0, missing_chunks_ = 0, bytes_read_ = 0, bytes_published_ = 0;
};

} // namespace memtrace
