#include "store/mapped_file.h"

#include "store/spool_error.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace memtrace {

MappedFile::MappedFile(const std::string& path, Missing missing, size_t room) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT && missing == Missing::empty)
    return;
  if (fd < 0)
    throw SpoolError("cannot read " + path + ": " + std::generic_category().message(errno));
  struct stat status{};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd);
    throw SpoolError("cannot read " + path + ": not a file");
  }
  size_ = static_cast<size_t>(status.st_size);
  mapped_ = std::max(size_, room);
  if (mapped_ > 0) {
    void* mapping = mmap(nullptr, mapped_, PROT_READ, MAP_SHARED, fd, 0);
    const int reason = errno;
    while (mapping == MAP_FAILED && mapped_ / 2 > size_) { // a limit on addresses (ulimit -v)
      mapped_ /= 2;
      mapping = mmap(nullptr, mapped_, PROT_READ, MAP_SHARED, fd, 0);
    }
    if (mapping == MAP_FAILED) {
      ::close(fd);
      throw SpoolError("cannot map " + path + ": " + std::generic_category().message(reason));
    }
    data_ = static_cast<uint8_t*>(mapping);
  }
  if (room > 0)
    fd_ = fd;
  else
    ::close(fd);
}

MappedFile::~MappedFile() {
  if (data_)
    munmap(data_, mapped_);
  if (fd_ >= 0)
    ::close(fd_);
}

bool MappedFile::grow() {
  struct stat status{};
  if (fd_ < 0 || fstat(fd_, &status) != 0)
    return false;
  const size_t size = std::min(static_cast<size_t>(status.st_size), mapped_);
  const bool grown = size > size_;
  size_ = std::max(size, size_);
  return grown;
}

size_t MappedFile::file_size() const {
  struct stat status{};
  return fd_ >= 0 && fstat(fd_, &status) == 0 ? static_cast<size_t>(status.st_size) : size_;
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

void MappedFile::release(size_t offset, size_t size) const {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + size < size_ ? offset + size : size_) / page * page;
  if (begin < end)
    madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

} // namespace memtrace
