// packed-N.bin: chunks of a spool that a finaliser has taken from the program, made small.
//
// One after the other, each a header and its packed records; after kPackedFileBytes in the next
// file, so that the oldest can be given up where disk is short. A chunk is written here before it
// is cleared in its window or taken out of records.bin, so each is whole in one of them; one that
// is found twice is the same. A header that makes no sense, or a chunk that is cut short, is the
// end of its file: the finaliser was killed while it wrote that one.
#pragma once

#include "record/event.h"
#include "record/spool.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace memtrace {

constexpr size_t kPackedFileBytes = size_t{16} << 20;
constexpr uint32_t kPackedMagic = 0x4b434150; // "PACK"

struct PackedHeader {
  uint32_t magic;
  uint32_t log;
  uint64_t index;
  ClockAnchor anchor;
  uint32_t records;
  uint32_t bytes; // that follow
  uint64_t check; // of these
};
static_assert(sizeof(PackedHeader) == 48);

// A spool's packed chunks, listed as far as they are written.
class PackedFiles {
 public:
  struct Chunk {
    PackedHeader header;
    uint32_t file;
    size_t offset; // of its packed records
  };

  // There may be none (yet).
  explicit PackedFiles(std::string directory);

  // Lists what was written since.
  void read_on();
  const std::vector<Chunk>& chunks() const { return chunks_; }
  // `records`: as many as the chunk's header says. False, and all are zero: it is damaged, or given
  // up.
  bool unpack(const Chunk& chunk, std::span<Record> records) const;
  // Where the next chunk goes.
  uint32_t last_file() const { return file_; }
  size_t listed_bytes() const { return listed_bytes_; } // of that file

 private:
  std::string directory_;
  uint32_t file_ = 0; // that is listed
  size_t listed_bytes_ = 0;
  std::vector<Chunk> chunks_;
};

// Adds to them, also beside others that do: each addition holds a lock on the file.
class PackedWriter {
 public:
  // Takes away what is cut short at the end. Throws SpoolError.
  explicit PackedWriter(const std::string& directory);
  ~PackedWriter();
  PackedWriter(const PackedWriter&) = delete;
  PackedWriter& operator=(const PackedWriter&) = delete;

  // False, and nothing was added: there is no space.
  bool add(const ChunkHeader& chunk, std::span<const Record> records);

 private:
  void open_file();
  size_t lock_last_file();

  std::string directory_;
  uint32_t file_;
  int fd_ = -1;
  std::vector<uint8_t> bytes_;
};

} // namespace memtrace
