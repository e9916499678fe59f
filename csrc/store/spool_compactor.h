// Makes the spool of a running process small, behind a follower that has read it.
//
// A chunk that the follower has read to its end is packed, and its place in records.bin becomes a
// hole. Nothing is lost whoever is killed: a chunk is whole in packed-N.bin before it is taken out.
// The last kRawBytes stay as they are: a chunk that others came after is appended to its end.
#pragma once

#include "store/packed_files.h"
#include "store/spool_follower.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace memtrace {

class SpoolCompactor {
 public:
  static constexpr size_t kRawBytes = size_t{4} << 20;

  // Throws SpoolError.
  explicit SpoolCompactor(const std::string& directory);
  ~SpoolCompactor();
  SpoolCompactor(const SpoolCompactor&) = delete;
  SpoolCompactor& operator=(const SpoolCompactor&) = delete;

  // False: there is no space to pack in, or this file system makes no holes; the spool is whole.
  bool compact(const SpoolFollower& follower);

 private:
  bool compact(const SpoolFollower& follower, size_t offset, bool& waits);

  int records_fd_;
  size_t chunk_bytes_;
  size_t next_ = 0;             // offset in records.bin
  std::vector<size_t> waiting_; // before it, not read to their end yet
  PackedWriter packed_;
  std::vector<Record> chunk_;
};

} // namespace memtrace
