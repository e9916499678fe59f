// A file of the spool, held open in a program that does not know of it.
//
// A server that daemonises closes every descriptor it did not open, and the number comes back as
// somebody else's file. So the descriptor lies high, out of the way of the program's own numbers,
// and is checked before each use: what is no longer our file is opened again, never written to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <sys/types.h>

namespace memtrace {

class SpoolFile {
 public:
  SpoolFile() = default;
  ~SpoolFile() { close(); }
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;

  // Throws std::runtime_error with the path and the reason.
  void create(const std::string& path);
  // The descriptor, opened again if the program closed it; -1 when that cannot be done.
  int descriptor() noexcept;
  // Bytes written before the disk was full, or all.
  size_t write_at(const void* data, size_t size, off_t offset) noexcept;
  // Space is taken before a page is mapped: a sparse mapping on a full disk is a SIGBUS in the
  // host.
  bool reserve(off_t offset, off_t size) noexcept;
  // Asks for space behind the end of the file, which then costs less to write; not having it is no
  // failure. The size stays as it is.
  void reserve_ahead(off_t offset, off_t size) noexcept;
  // Gives back what was reserved behind the end of the file.
  void trim() noexcept;
  // Of the disk, without the holes; 0: not known.
  uint64_t disk_bytes() noexcept;
  // Closes the descriptor if it is still ours.
  void close() noexcept;

 private:
  bool is_ours(int fd) const noexcept;

  std::string path_;
  int fd_ = -1;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

} // namespace memtrace
