// Any bytes as the files of a spool: read, merged and converted to rows, as the finaliser does.
//
// An input is the sizes of control.bin, windows.bin and records.bin (three little-endian u32), then
// these files and text.log, one after the other. The files lie in memory (memfd), reached through a
// directory of links, so nothing is written to a disk.
#include "analyse/conversion.h"
#include "store/spool_error.h"
#include "store/spool_reader.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr std::array<const char*, 4> kFiles = {"control.bin", "windows.bin", "records.bin",
                                               "text.log"};
constexpr size_t kSizesBytes = 3 * sizeof(uint32_t);

void must(bool done) {
  if (!done)
    std::abort();
}

class SpoolInMemory {
 public:
  SpoolInMemory() {
    char path[] = "/tmp/memtrace-fuzz-XXXXXX";
    must(mkdtemp(path) != nullptr);
    directory_ = path;
    for (size_t i = 0; i < kFiles.size(); ++i) {
      files_[i] = memfd_create(kFiles[i], 0);
      const std::string target = "/proc/self/fd/" + std::to_string(files_[i]);
      must(files_[i] >= 0 && symlink(target.c_str(), path_of(i).c_str()) == 0);
    }
  }
  ~SpoolInMemory() {
    for (size_t i = 0; i < kFiles.size(); ++i)
      unlink(path_of(i).c_str());
    rmdir(directory_.c_str());
  }
  SpoolInMemory(const SpoolInMemory&) = delete;
  SpoolInMemory& operator=(const SpoolInMemory&) = delete;

  void put(size_t file, const uint8_t* bytes, size_t size) const {
    must(ftruncate(files_[file], 0) == 0);
    must(pwrite(files_[file], bytes, size, 0) == static_cast<ssize_t>(size));
  }
  const std::string& directory() const { return directory_; }

 private:
  std::string path_of(size_t file) const { return directory_ + "/" + kFiles[file]; }

  std::string directory_;
  std::array<int, kFiles.size()> files_{};
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const SpoolInMemory spool;
  if (size < kSizesBytes)
    return -1;
  const uint8_t* bytes = data + kSizesBytes;
  size_t left = size - kSizesBytes;
  for (size_t file = 0; file < kFiles.size(); ++file) {
    size_t wanted = left; // the last has all the rest
    if (file + 1 < kFiles.size()) {
      uint32_t stated = 0;
      std::memcpy(&stated, data + file * sizeof stated, sizeof stated);
      wanted = std::min<size_t>(stated, left);
    }
    spool.put(file, bytes, wanted);
    bytes += wanted;
    left -= wanted;
  }
  try {
    const memtrace::SpoolReader reader(spool.directory());
    constexpr size_t kBatchRows = 8, kPartRows = 16; // so that small inputs fill them
    memtrace::Conversion conversion(reader, kBatchRows, kPartRows);
    uint64_t before = 0;
    while (!conversion.finished()) {
      conversion.advance();
      must(conversion.finished() || conversion.consumed() > before); // it gets on
      before = conversion.consumed();
    }
    must(conversion.consumed() == reader.records());
    (void)conversion.rows().oddities(0);
    (void)reader.damage();
  } catch (const memtrace::SpoolError&) { // refused, with its reason
  }
  return 0;
}
