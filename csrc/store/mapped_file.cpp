#include "store/mapped_file.h"

#include "store/spool_error.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace memtrace {

MappedFile::MappedFile(const std::string& path, Missing missing) {
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
  if (size_ > 0) {
    void* mapping = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    const int reason = errno;
    if (mapping == MAP_FAILED) {
      ::close(fd);
      throw SpoolError("cannot map " + path + ": " + std::generic_category().message(reason));
    }
    data_ = static_cast<uint8_t*>(mapping);
  }
  ::close(fd);
}

MappedFile::~MappedFile() {
  if (data_)
    munmap(data_, size_);
}

void MappedFile::release(size_t offset, size_t size) const {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + size < size_ ? offset + size : size_) / page * page;
  if (begin < end)
    madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

} // namespace memtrace
