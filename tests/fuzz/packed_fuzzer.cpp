// Any bytes as packed records, and as a file of packed chunks. What unpacks packs to the same.
//
// An input is how many records are asked for (a little-endian u16), then the bytes.
#include "store/packed_files.h"
#include "store/packed_records.h"

#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace {

void must(bool done) {
  if (!done)
    std::abort();
}

// A folder in which packed-0.bin is a file in memory.
struct Folder {
  Folder() {
    char path[] = "/tmp/memtrace-fuzz-XXXXXX";
    must(mkdtemp(path) != nullptr);
    directory = path;
    file = memfd_create("packed", 0);
    const std::string target = "/proc/self/fd/" + std::to_string(file);
    must(file >= 0 && symlink(target.c_str(), link().c_str()) == 0);
  }
  ~Folder() {
    unlink(link().c_str());
    rmdir(directory.c_str());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string link() const { return directory + "/packed-0.bin"; }

  std::string directory;
  int file = -1;
};

using Records = std::vector<memtrace::Record>;

bool same(const Records& a, const Records& b) {
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(memtrace::Record)) == 0;
}

void as_records(const uint8_t* bytes, size_t size, size_t count) {
  Records records(count), again(count);
  if (!memtrace::unpack({bytes, size}, records))
    return;
  std::vector<uint8_t> packed;
  memtrace::pack(records, packed);
  must(memtrace::unpack(packed, again) && same(records, again));
}

void as_file(const uint8_t* bytes, size_t size) {
  static const Folder folder;
  must(ftruncate(folder.file, 0) == 0);
  must(pwrite(folder.file, bytes, size, 0) == static_cast<ssize_t>(size));
  const memtrace::PackedFiles files(folder.directory);
  must(files.listed_bytes() <= size);
  for (const auto& chunk : files.chunks()) {
    Records records(chunk.header.records);
    if (!files.unpack(chunk, records))
      must(same(records, Records(records.size())));
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint16_t count = 0;
  if (size < sizeof count)
    return -1;
  std::memcpy(&count, data, sizeof count);
  as_records(data + sizeof count, size - sizeof count, count);
  as_file(data + sizeof count, size - sizeof count);
  return 0;
}
