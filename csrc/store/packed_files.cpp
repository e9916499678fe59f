#include "store/packed_files.h"

#include "store/mapped_file.h"
#include "store/packed_records.h"
#include "store/spool_error.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <optional>
#include <string_view>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace memtrace {
namespace {

// Of a chunk; so no damaged header makes us reserve more.
constexpr uint32_t kMostRecords = 1U << 20;

size_t size_of(int fd) {
  struct stat status{};
  return fd >= 0 && fstat(fd, &status) == 0 ? static_cast<size_t>(status.st_size) : 0;
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

constexpr std::string_view kPrefix = "packed-";

std::string path_of(const std::string& directory, uint32_t file) {
  return directory + "/packed-" + std::to_string(file) + ".bin";
}

// The first that there is, of those from this number on.
std::optional<uint32_t> first_from(const std::string& directory, uint32_t least) {
  std::optional<uint32_t> first;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix))
      continue;
    uint32_t number = 0;
    const char* end = name.data() + name.size();
    const auto [rest, failed] = std::from_chars(name.data() + kPrefix.size(), end, number);
    if (failed == std::errc{} && std::string_view(rest, end) == ".bin" && number >= least)
      first = std::min(first.value_or(number), number);
  }
  return first;
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

PackedFiles::PackedFiles(std::string directory) : directory_(std::move(directory)) {
  file_ = first_from(directory_, 0).value_or(0);
  read_on();
}

void PackedFiles::read_on() {
  for (;;) {
    // What is after it is written only when it is whole.
    const auto next = first_from(directory_, file_ + 1);
    const int fd = open(path_of(directory_, file_).c_str(), O_RDONLY | O_CLOEXEC);
    const size_t size = size_of(fd);
    PackedHeader header{};
    while (listed_bytes_ + sizeof header <= size &&
           read_at(fd, &header, sizeof header, listed_bytes_)) {
      const size_t offset = listed_bytes_ + sizeof header;
      if (header.magic != kPackedMagic || header.log == 0 || header.bytes > size - offset ||
          header.records > std::min(header.bytes, kMostRecords)) // each takes a byte or more
        break;
      chunks_.push_back({header, file_, offset});
      listed_bytes_ = offset + header.bytes;
    }
    if (fd >= 0)
      ::close(fd);
    if (!next)
      return;
    file_ = *next;
    listed_bytes_ = 0;
  }
}

bool PackedFiles::unpack(const Chunk& chunk, std::span<Record> records) const {
  std::vector<uint8_t> bytes(chunk.header.bytes);
  const int fd = open(path_of(directory_, chunk.file).c_str(), O_RDONLY | O_CLOEXEC);
  const bool whole = fd >= 0 && read_at(fd, bytes.data(), bytes.size(), chunk.offset) &&
                     check_of(bytes) == chunk.header.check && memtrace::unpack(bytes, records);
  if (fd >= 0)
    ::close(fd);
  if (!whole)
    std::ranges::fill(records, Record{});
  return whole;
}

PackedWriter::PackedWriter(const std::string& directory)
    : directory_(directory), file_(PackedFiles(directory).last_file()) {
  open_file();
  const size_t size = lock_last_file();
  const PackedFiles whole(directory); // under the lock nobody is in the middle of a chunk
  const bool is_cut = whole.last_file() == file_ && whole.listed_bytes() < size;
  const bool failed = is_cut && ftruncate(fd_, static_cast<off_t>(whole.listed_bytes())) != 0;
  flock(fd_, LOCK_UN);
  if (failed) {
    ::close(fd_);
    throw SpoolError("cannot write " + path_of(directory_, file_) + ": " +
                     std::generic_category().message(errno));
  }
}

PackedWriter::~PackedWriter() {
  if (fd_ >= 0)
    ::close(fd_);
}

void PackedWriter::open_file() {
  if (fd_ >= 0)
    ::close(fd_);
  const std::string path = path_of(directory_, file_);
  fd_ = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd_ < 0)
    throw SpoolError("cannot write " + path + ": " + std::generic_category().message(errno));
}

// Its size. No chunk is added to a file that is full, so one that is not is the last.
size_t PackedWriter::lock_last_file() {
  for (;;) {
    while (flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }
    const size_t size = size_of(fd_);
    if (size < kPackedFileBytes)
      return size;
    ++file_;
    open_file();
  }
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
  const size_t size = lock_last_file();
  const bool written = write_at(fd_, bytes_.data(), bytes_.size(), size);
  if (!written)
    static_cast<void>(ftruncate(fd_, static_cast<off_t>(size)));
  flock(fd_, LOCK_UN);
  return written;
}

} // namespace memtrace
