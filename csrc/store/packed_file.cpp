#include "store/packed_file.h"

#include "store/packed_records.h"
#include "store/spool_error.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace memtrace {
namespace {

// Of a chunk; so no damaged header makes us reserve more than such a chunk takes.
constexpr uint32_t kMostRecords = 1U << 24;

size_t size_of(int fd) {
  struct stat status{};
  return fd >= 0 && fstat(fd, &status) == 0 ? static_cast<size_t>(status.st_size) : 0;
}

bool read_at(int fd, void* into, size_t size, size_t offset) {
  auto* bytes = static_cast<char*>(into);
  for (size_t done = 0; done < size;) {
    const ssize_t n = pread(fd, bytes + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

bool write_at(int fd, const uint8_t* bytes, size_t size, size_t offset) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = pwrite(fd, bytes + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

uint64_t check_of(std::span<const uint8_t> bytes) {
  uint64_t check = bytes.size();
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min(sizeof word, bytes.size() - at));
    check = (check ^ word) * 0x9e3779b97f4a7c15ULL;
    check ^= check >> 29;
  }
  return check;
}

} // namespace

PackedFile::PackedFile(const std::string& directory) : path_(directory + "/" + kPackedName) {
  read_on();
}

PackedFile::~PackedFile() {
  if (fd_ >= 0)
    ::close(fd_);
}

void PackedFile::read_on() {
  if (fd_ < 0)
    fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  const size_t size = size_of(fd_);
  PackedHeader header{};
  while (listed_bytes_ + sizeof header <= size &&
         read_at(fd_, &header, sizeof header, listed_bytes_)) {
    const size_t offset = listed_bytes_ + sizeof header;
    if (header.magic != kPackedMagic || header.log == 0 || header.records > kMostRecords ||
        header.bytes > size - offset)
      return;
    chunks_.push_back({header, offset});
    listed_bytes_ = offset + header.bytes;
  }
}

bool PackedFile::unpack(const Chunk& chunk, std::span<Record> records) const {
  std::vector<uint8_t> bytes(chunk.header.bytes);
  if (read_at(fd_, bytes.data(), bytes.size(), chunk.offset) &&
      check_of(bytes) == chunk.header.check && memtrace::unpack(bytes, records))
    return true;
  std::ranges::fill(records, Record{});
  return false;
}

PackedWriter::PackedWriter(const std::string& directory)
    : size_(PackedFile(directory).listed_bytes()) {
  const std::string path = directory + "/" + kPackedName;
  fd_ = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (fd_ < 0)
    throw SpoolError("cannot write " + path + ": " + std::generic_category().message(errno));
}

PackedWriter::~PackedWriter() {
  if (fd_ >= 0)
    ::close(fd_);
}

bool PackedWriter::add(const ChunkHeader& chunk, std::span<const Record> records) {
  PackedHeader header{kPackedMagic,
                      chunk.log,
                      chunk.index,
                      chunk.anchor,
                      static_cast<uint32_t>(records.size()),
                      0,
                      0};
  bytes_.resize(sizeof header);
  pack(records, bytes_);
  const std::span packed = std::span(bytes_).subspan(sizeof header);
  header.bytes = static_cast<uint32_t>(packed.size());
  header.check = check_of(packed);
  std::memcpy(bytes_.data(), &header, sizeof header);
  if (!write_at(fd_, bytes_.data(), bytes_.size(), size_)) {
    static_cast<void>(ftruncate(fd_, static_cast<off_t>(size_)));
    return false;
  }
  size_ += bytes_.size();
  return true;
}

} // namespace memtrace
