// A process's spool, opened for reading: of a process that ended, was killed, or still runs.
//
// Everything that is whole is read; what is not is counted in damage(). Only a spool that cannot be
// understood at all is refused (SpoolError): not a spool, or written by a newer memtrace.
#pragma once

#include "record/event.h"
#include "record/spool.h"
#include "store/mapped_file.h"
#include "store/packed_files.h"
#include "store/text_table.h"
#include "store/tick_scale.h"

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace memtrace {

// A run of whole records, in the order of their log. Of a spool: see SpoolReader::make_ready.
struct ChunkRecords {
  const Record* records;
  size_t count;
};

// The records of one log, chunk after chunk.
using LogRecords = std::vector<ChunkRecords>;

class SpoolReader {
 public:
  explicit SpoolReader(const std::string& directory);
  ~SpoolReader();
  SpoolReader(const SpoolReader&) = delete;
  SpoolReader& operator=(const SpoolReader&) = delete;

  const Control& control() const { return control_; }
  const TextTable& text() const { return text_; }
  const std::vector<LogRecords>& logs() const { return logs_; }
  size_t records() const { return records_count_; }

  // A reading of the same clock taken later (same boot): it pins the clock's rate for a spool
  // that was not closed and holds a few chunks only.
  void add_clock_anchor(const ClockAnchor& anchor) { later_anchors_.push_back(anchor); }
  TickScale tick_scale() const;

  // Before its records are read, also again after release(): they may be packed.
  void make_ready(const ChunkRecords& chunk) const {
    if (chunk.records >= unpacked_ && chunk.records < unpacked_ + unpacked_count_)
      unpack(chunk);
  }
  // Hands a chunk's pages back once it was consumed.
  void release(const ChunkRecords& chunk) const;

  // What was not whole, by kind; all zero for a sound spool.
  std::vector<std::pair<std::string_view, uint64_t>> damage() const;

  // Throws SpoolError when it is none, or one that this version cannot read.
  static Control read_control(const std::string& path);

 private:
  struct Chunk {
    uint64_t index;
    ChunkRecords records;
  };
  using ChunksByLog = std::map<uint32_t, std::vector<Chunk>>;
  void collect_chunks(const MappedFile& file, ChunksByLog& by_log);
  void collect_packed(ChunksByLog& by_log);
  void chain_chunks(ChunksByLog& by_log);
  void unpack(const ChunkRecords& chunk) const;

  Control control_;
  // Each is opened, or listed on, after the one before: what has left that is in this.
  MappedFile windows_file_;
  std::unique_ptr<const MappedFile> records_file_;
  PackedFiles packed_files_;
  TextTable text_;
  // Addresses for all records that are packed, and which of its chunks are unpacked there.
  Record* unpacked_ = nullptr;
  size_t unpacked_count_ = 0;
  std::vector<const Record*> packed_places_; // of each chunk of packed_files_, rising
  mutable std::vector<bool> is_unpacked_;
  std::vector<LogRecords> logs_;
  std::vector<ClockAnchor> chunk_anchors_, later_anchors_;
  size_t records_count_ = 0;
  mutable uint64_t bad_chunks_ = 0;
  uint64_t missing_chunks_ = 0, records_cut_ = 0;
};

} // namespace memtrace
