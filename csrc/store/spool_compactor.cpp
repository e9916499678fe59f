#include "store/spool_compactor.h"

#include "store/spool_error.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace memtrace {
namespace {

int open_records(const std::string& directory) {
  const std::string path = directory + "/records.bin";
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0)
    throw SpoolError("cannot write " + path + ": " + std::generic_category().message(errno));
  return fd;
}

} // namespace

SpoolCompactor::SpoolCompactor(const std::string& directory)
    : records_fd_(open_records(directory)),
      chunk_bytes_(SpoolReader::read_control(directory + "/control.bin").chunk_bytes),
      packed_(directory), chunk_(chunk_bytes_ / kRecordBytes) {}

SpoolCompactor::~SpoolCompactor() {
  ::close(records_fd_);
}

bool SpoolCompactor::compact(const SpoolFollower& follower) {
  struct stat status{};
  if (fstat(records_fd_, &status) != 0)
    return false;
  std::vector<size_t> still_waiting;
  for (const size_t offset : waiting_) {
    bool waits = false;
    if (!compact(follower, offset, waits))
      return false;
    if (waits)
      still_waiting.push_back(offset);
  }
  waiting_ = std::move(still_waiting);
  for (const auto size = static_cast<size_t>(status.st_size); next_ + kRawBytes <= size;
       next_ += chunk_bytes_) {
    bool waits = false;
    if (!compact(follower, next_, waits))
      return false;
    if (waits)
      waiting_.push_back(next_);
  }
  return true;
}

bool SpoolCompactor::compact(const SpoolFollower& follower, size_t offset, bool& waits) {
  const auto place = static_cast<off_t>(offset);
  ChunkHeader header{};
  if (pread(records_fd_, &header, sizeof header, place) != sizeof header)
    return false;
  if (header.magic != kChunkMagic || header.log == 0)
    return true; // a hole already
  waits = !follower.is_past(header.log, header.index);
  if (waits)
    return true;
  if (pread(records_fd_, chunk_.data(), chunk_bytes_, place) != static_cast<ssize_t>(chunk_bytes_))
    return false;
  size_t end = 1; // after the header, up to the first that was never written
  while (end < chunk_.size() && chunk_[end].event.tail.action != Action::none)
    ++end;
  if (!packed_.add(header, std::span(chunk_).subspan(1, end - 1)))
    return false;
  return fallocate(records_fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, place,
                   static_cast<off_t>(chunk_bytes_)) == 0;
}

} // namespace memtrace
