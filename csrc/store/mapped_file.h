// A file mapped read-only. Owner: whoever holds it; the bytes live as long as it does.
//
// The file may still grow (a running process); what was there when it was opened is mapped, and
// with `room` what comes after it, where it is: nothing moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace memtrace {

// All of it, from there on; false: the file does not reach so far, or cannot be read.
bool read_at(int fd, void* into, size_t size, size_t offset);

class MappedFile {
 public:
  enum class Missing { refuse, empty };

  // Throws SpoolError with the path and the reason. An empty file gives size() == 0, as does one
  // that is not there when that is allowed.
  // `room`: addresses for this many bytes in all, or as many as the system gives (they cost
  // nothing).
  explicit MappedFile(const std::string& path, Missing missing = Missing::refuse, size_t room = 0);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // Looks how far the file has grown within its room; false: there is nothing new.
  bool grow();
  size_t file_size() const; // of what is mapped of it and what is not
  // Copies from the file, of which nothing need be mapped; false: it does not reach so far.
  bool read(void* into, size_t size, size_t offset) const {
    return read_at(fd_, into, size, offset);
  }
  bool holds(const void* place) const {
    const auto* byte = static_cast<const uint8_t*>(place);
    return byte >= data_ && byte < data_ + size_;
  }
  // Gives these pages back to the page cache: they count in the reader's memory otherwise.
  void release(size_t offset, size_t size) const;

 private:
  int fd_ = -1; // kept open when there is room
  uint8_t* data_ = nullptr;
  size_t size_ = 0, mapped_ = 0;
};

} // namespace memtrace
