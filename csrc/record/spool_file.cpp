#include "record/spool_file.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <stdexcept>
#include <sys/resource.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace memtrace {
namespace {

// Well above what select() can use and most programs reach, below the usual limit of 1024.
int high_number() noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > 1024)
    return 960;
  return limit.rlim_cur > 128 ? static_cast<int>(limit.rlim_cur) - 64 : 3;
}

int move_high(int fd) noexcept {
  const int high = fcntl(fd, F_DUPFD_CLOEXEC, high_number());
  if (high < 0)
    return fd;
  ::close(fd);
  return high;
}

// How much of a write at this place the limit on the size of files allows (ulimit -f). A write past
// it would send the program SIGXFSZ, which ends it unless it is ignored (as Python does at first).
size_t allowed(off_t offset, size_t size) noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return size;
  const auto start = static_cast<rlim_t>(offset);
  return start >= limit.rlim_cur ? 0 : std::min<rlim_t>(size, limit.rlim_cur - start);
}

bool write_zeros(int fd, off_t offset, off_t size) noexcept {
  static const char zeros[4096] = {};
  for (off_t done = 0; done < size;) {
    const auto part = static_cast<size_t>(std::min<off_t>(size - done, sizeof zeros));
    const ssize_t n = pwrite(fd, zeros, part, offset + done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    done += n;
  }
  return true;
}

} // namespace

void SpoolFile::create(const std::string& path) {
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  struct stat status{};
  if (fd < 0 || fstat(fd, &status) != 0)
    throw std::runtime_error("cannot create " + path + ": " +
                             std::generic_category().message(errno));
  path_ = path;
  device_ = status.st_dev;
  inode_ = status.st_ino;
  fd_ = move_high(fd);
}

bool SpoolFile::is_ours(int fd) const noexcept {
  struct stat status{};
  return fd >= 0 && fstat(fd, &status) == 0 && status.st_dev == device_ && status.st_ino == inode_;
}

int SpoolFile::descriptor() noexcept {
  if (is_ours(fd_))
    return fd_;
  fd_ = -1; // somebody else's by now: not to be closed by us
  if (path_.empty())
    return -1;
  const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return -1;
  if (!is_ours(fd)) {
    ::close(fd);
    return -1;
  }
  fd_ = move_high(fd);
  return fd_;
}

size_t SpoolFile::write_at(const void* data, size_t size, off_t offset) noexcept {
  const int fd = descriptor();
  const size_t wanted = allowed(offset, size);
  size_t done = 0;
  while (fd >= 0 && done < wanted) {
    const ssize_t n = pwrite(fd, static_cast<const char*>(data) + done, wanted - done,
                             offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      break;
    done += static_cast<size_t>(n);
  }
  return done;
}

bool SpoolFile::reserve(off_t offset, off_t size) noexcept {
  const int fd = descriptor();
  if (fd < 0 || allowed(offset, static_cast<size_t>(size)) < static_cast<size_t>(size))
    return false;
  int status = 0;
  do {
    status = fallocate(fd, 0, offset, size);
  } while (status != 0 && errno == EINTR);
  if (status == 0)
    return true;
  if (errno != EOPNOTSUPP && errno != ENOSYS)
    return false;
  return write_zeros(fd, offset, size); // a file system without fallocate: slower, as safe
}

void SpoolFile::reserve_ahead(off_t offset, off_t size) noexcept {
  const int fd = descriptor();
  if (fd >= 0 && allowed(offset, static_cast<size_t>(size)) == static_cast<size_t>(size))
    static_cast<void>(fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size));
}

void SpoolFile::trim() noexcept {
  const int fd = descriptor();
  struct stat status{};
  if (fd >= 0 && fstat(fd, &status) == 0)
    static_cast<void>(ftruncate(fd, status.st_size));
}

uint64_t SpoolFile::disk_bytes() noexcept {
  constexpr uint64_t kBlockBytes = 512; // whatever the file system's are
  const int fd = descriptor();
  struct stat status{};
  return fd >= 0 && fstat(fd, &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * kBlockBytes
                                            : 0;
}

void SpoolFile::close() noexcept {
  if (is_ours(fd_))
    ::close(fd_);
  fd_ = -1;
  path_.clear();
}

} // namespace memtrace
