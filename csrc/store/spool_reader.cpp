#include "store/spool_reader.h"

#include "store/spool_error.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace memtrace {
namespace {

static_assert(std::endian::native == std::endian::little, "the spool is little-endian");

uint64_t tail_word(const Record& record) {
  // The writer may still run: its release store pairs with this.
  const auto* word = reinterpret_cast<const uint64_t*>(&record.event.tail);
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

// Records up to the first that was never written. Written ones have no gap, so halving finds it.
size_t written_records(const Record* records, size_t room) {
  if (room > 0 && tail_word(records[room - 1]) != 0)
    return room; // the common case: few pages of a long file are touched
  size_t low = 0, high = room;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (tail_word(records[middle]) != 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

bool any_byte_set(const uint8_t* data, size_t size) {
  return std::any_of(data, data + size, [](uint8_t byte) { return byte != 0; });
}

} // namespace

SpoolReader::SpoolReader(const std::string& directory)
    : control_(read_control(directory + "/control.bin")),
      windows_file_(directory + "/windows.bin", MappedFile::Missing::empty),
      packed_files_(directory), text_(directory + "/text.log") {
  ChunksByLog by_log;
  collect_chunks(windows_file_, by_log);
  records_file_ = std::make_unique<MappedFile>(directory + "/records.bin");
  collect_chunks(*records_file_, by_log);
  packed_files_.read_on();
  collect_packed(by_log);
  chain_chunks(by_log);
}

Control SpoolReader::read_control(const std::string& path) {
  const MappedFile file(path);
  if (file.size() >= sizeof(uint64_t) + sizeof(uint32_t)) {
    uint64_t magic = 0;
    uint32_t version = 0;
    std::memcpy(&magic, file.data(), sizeof magic);
    std::memcpy(&version, file.data() + sizeof magic, sizeof version);
    if (magic == 0 && !any_byte_set(file.data(), file.size()))
      throw SpoolError(path + " is empty: the process ended before its recording began");
    if (magic != kSpoolMagic)
      throw SpoolError(path + " is not a memtrace recording");
    if (version > kSpoolVersion)
      throw SpoolError(path + " has spool version " + std::to_string(version) +
                       ", this memtrace reads up to " + std::to_string(kSpoolVersion) +
                       ": upgrade memtrace");
    if (version == 0)
      throw SpoolError(path + " is damaged: it has no version");
  }
  if (file.size() < sizeof(Control))
    throw SpoolError(path + " is cut short (" + std::to_string(file.size()) + " bytes)");
  Control control{};
  std::memcpy(&control, file.data(), sizeof control);
  constexpr uint32_t kMostChunkBytes = 1U << 30;
  if (control.chunk_bytes < 2 * kRecordBytes || control.chunk_bytes > kMostChunkBytes ||
      control.chunk_bytes % kRecordBytes != 0)
    throw SpoolError(path + " is damaged: chunks of " + std::to_string(control.chunk_bytes) +
                     " bytes");
  if (control.clock != Clock::tsc && control.clock != Clock::monotonic_ns)
    throw SpoolError(path + " is damaged: unknown clock");
  return control;
}

void SpoolReader::collect_chunks(const MappedFile& file, ChunksByLog& by_log) {
  const uint8_t* data = file.data();
  const size_t size = file.size();
  const size_t chunk_bytes = control_.chunk_bytes;
  for (size_t offset = 0; offset < size; offset += chunk_bytes) {
    const size_t bytes = std::min(chunk_bytes, size - offset);
    ChunkHeader header{};
    if (bytes >= sizeof header)
      std::memcpy(&header, data + offset, sizeof header);
    if (header.magic == 0 && header.log == 0 && bytes >= sizeof header)
      continue; // reserved, or cleared
    if (header.magic != kChunkMagic || header.log == 0) {
      if (header.magic != 0 || bytes < sizeof header)
        ++bad_chunks_;
      continue;
    }
    const size_t room = (bytes - sizeof header) / kRecordBytes;
    const size_t cut = (bytes - sizeof header) % kRecordBytes;
    const auto* records = reinterpret_cast<const Record*>(data + offset + sizeof header);
    const size_t written = written_records(records, room);
    if (written == room && any_byte_set(reinterpret_cast<const uint8_t*>(records + room), cut))
      ++records_cut_; // the file ends within a record
    chunk_anchors_.push_back(header.anchor);
    by_log[header.log].push_back({header.index, {records, written}});
    file.release(offset, bytes); // the kernel maps whole neighbourhoods
  }
}

// Each gets its place among addresses that cost nothing until it is unpacked there.
void SpoolReader::collect_packed(ChunksByLog& by_log) {
  for (const PackedFiles::Chunk& chunk : packed_files_.chunks())
    unpacked_count_ += chunk.header.records;
  if (unpacked_count_ == 0)
    return;
  void* room = mmap(nullptr, unpacked_count_ * sizeof(Record), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED)
    throw SpoolError("not enough addresses to read a recording of " +
                     std::to_string(unpacked_count_) + " packed records (ulimit -v)");
  unpacked_ = static_cast<Record*>(room);
  const Record* place = unpacked_;
  for (const PackedFiles::Chunk& chunk : packed_files_.chunks()) {
    packed_places_.push_back(place);
    chunk_anchors_.push_back(chunk.header.anchor);
    by_log[chunk.header.log].push_back({chunk.header.index, {place, chunk.header.records}});
    place += chunk.header.records;
  }
  is_unpacked_.resize(packed_places_.size());
}

SpoolReader::~SpoolReader() {
  if (unpacked_)
    munmap(unpacked_, unpacked_count_ * sizeof(Record));
}

void SpoolReader::unpack(const ChunkRecords& chunk) const {
  const auto after = std::ranges::upper_bound(packed_places_, chunk.records);
  const auto number = static_cast<size_t>(after - packed_places_.begin()) - 1;
  if (is_unpacked_[number])
    return;
  is_unpacked_[number] = true;
  Record* place = unpacked_ + (chunk.records - unpacked_);
  if (!packed_files_.unpack(packed_files_.chunks()[number], {place, chunk.count}))
    ++bad_chunks_;
}

// The chunks of each log in their order. One that is found twice may be cut short in either place:
// its window was looked at before it was full, or the disk was full when it was appended.
void SpoolReader::chain_chunks(ChunksByLog& by_log) {
  for (auto& [log, chunks] : by_log) {
    std::ranges::stable_sort(chunks, [](const Chunk& a, const Chunk& b) {
      return a.index != b.index ? a.index < b.index : a.records.count > b.records.count;
    });
    LogRecords records;
    uint64_t expected = 0;
    for (const Chunk& chunk : chunks) {
      if (chunk.index < expected)
        continue; // the longer copy was taken
      missing_chunks_ += chunk.index - expected;
      expected = chunk.index + 1;
      records_count_ += chunk.records.count;
      if (chunk.records.count > 0)
        records.push_back(chunk.records);
    }
    if (!records.empty())
      logs_.push_back(std::move(records));
  }
}

TickScale SpoolReader::tick_scale() const {
  std::vector<ClockAnchor> anchors{control_.start};
  anchors.insert(anchors.end(), chunk_anchors_.begin(), chunk_anchors_.end());
  if (control_.complete && control_.end.ticks != 0)
    anchors.push_back(control_.end);
  anchors.insert(anchors.end(), later_anchors_.begin(), later_anchors_.end());
  return {control_.clock, std::move(anchors)};
}

void SpoolReader::release(const ChunkRecords& chunk) const {
  if (chunk.records >= unpacked_ && chunk.records < unpacked_ + unpacked_count_) {
    // Pages that it shares with its neighbours stay.
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const auto place = static_cast<size_t>(chunk.records - unpacked_) * sizeof(Record);
    const size_t start = (place + page - 1) / page * page;
    const size_t end = (place + chunk.count * sizeof(Record)) / page * page;
    const auto after = std::ranges::upper_bound(packed_places_, chunk.records);
    is_unpacked_[static_cast<size_t>(after - packed_places_.begin()) - 1] = false;
    if (start < end)
      madvise(reinterpret_cast<char*>(unpacked_) + start, end - start, MADV_DONTNEED);
    return;
  }
  if (!records_file_->holds(chunk.records)) // a window: one of few
    return;
  const auto* start = reinterpret_cast<const uint8_t*>(chunk.records - 1); // its header
  records_file_->release(static_cast<size_t>(start - records_file_->data()),
                         (chunk.count + 1) * kRecordBytes);
}

std::vector<std::pair<std::string_view, uint64_t>> SpoolReader::damage() const {
  return {{"bad_chunks", bad_chunks_},
          {"missing_chunks", missing_chunks_},
          {"records_cut", records_cut_},
          {"text_bytes_cut", text_.bytes_cut()},
          {"unknown_text_ids", text_.unknown_ids()}};
}

} // namespace memtrace
