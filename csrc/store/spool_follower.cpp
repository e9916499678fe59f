#include "store/spool_follower.h"

#include "record/clock.h"
#include "record/writer_life.h"
#include "store/spool_error.h"

#include <algorithm>
#include <cstring>

namespace memtrace {
namespace {

// The recorder's own log, which has the notes.
constexpr uint32_t kNoteLog = 1;

// The writer runs: its release stores pair with these.
template <typename Word> Word load(const Word* word) {
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

bool is_published(const Record& record) {
  return load(reinterpret_cast<const uint64_t*>(&record.event.tail)) != 0;
}

} // namespace

SpoolFollower::SpoolFollower(const std::string& directory, uint64_t settle_ns)
    : control_file_(directory + "/control.bin"),
      control_(SpoolReader::read_control(directory + "/control.bin")),
      windows_file_(directory + "/windows.bin", MappedFile::Missing::refuse, kWindowsRoom),
      records_file_(directory + "/records.bin", MappedFile::Missing::refuse, control_.chunk_bytes),
      packed_files_(directory), text_(directory + "/text.log", kRoom),
      same_clock_(control_.clock == kClock &&
                  std::strncmp(control_.writer.boot_id, this_writer().boot_id,
                               sizeof control_.writer.boot_id) == 0),
      settle_ns_(settle_ns), last_anchor_(control_.start) {
  if (control_file_.size() < sizeof(Control))
    throw SpoolError(directory + "/control.bin is cut short");
}

void SpoolFollower::look(bool ended) {
  drop_taken();
  // In this order: what is published when this is read is all there is.
  const auto* control = reinterpret_cast<const Control*>(control_file_.data());
  const bool closed = load(&control->complete) != 0;
  std::memcpy(&control_, control, sizeof control_);
  const uint64_t now = clock_now();
  Windows windows;
  const bool listed = list(windows);
  behind_ = !listed;
  for (const auto& [at, offset] : windows)
    logs_.try_emplace(at.first);
  uint64_t most_ticks = closed || ended ? UINT64_MAX : now;
  if (!listed) // what is missing is not known
    most_ticks = settled_ticks_;
  for (auto& [number, log] : logs_) {
    if (!listed)
      break;
    if (!fill(number, log, windows)) {
      behind_ = true;
      most_ticks = settled_ticks_;
    }
    if (!log.more)
      continue;
    behind_ = true; // what else this log has is not seen: the order is known up to a window before
    const Record& last_sure = log.pending[log.pending.size() - 1 - RecordMerge::kWindowRecords];
    most_ticks = std::min(most_ticks, last_sure.event.ticks);
  }
  text_.read_on(); // after the records that refer to it
  settled_ticks_ = std::max(settled_ticks_, most_ticks);
  for (auto& [number, log] : logs_) {
    if (log.pending.empty())
      continue;
    ready_.push_back({{log.pending.data(), log.pending.size()}});
    ready_logs_.push_back(&log);
  }
  merge_.emplace(ready_, merge_ ? merge_->orders() : RecordMerge::Orders{});
}

const Record* SpoolFollower::next() {
  return merge_ ? merge_->next(settled_ticks_) : nullptr;
}

std::span<const Record> SpoolFollower::notes() const {
  const auto log = logs_.find(kNoteLog);
  return log != logs_.end() ? std::span(log->second.pending) : std::span<const Record>{};
}

ClockAnchor SpoolFollower::latest_anchor() const {
  if (control_.complete && control_.end.ticks != 0)
    return control_.end;
  return same_clock_ ? clock_anchor() : last_anchor_;
}

// The latest ticks that are settled while the writer runs.
uint64_t SpoolFollower::clock_now() const {
  if (!same_clock_) // another machine's: what is there is taken as it is
    return UINT64_MAX;
  const ClockAnchor now = clock_anchor();
  const uint64_t ns = std::max<uint64_t>(now.monotonic_ns - control_.start.monotonic_ns, 1);
  const double ticks_per_ns =
      static_cast<double>(now.ticks - control_.start.ticks) / static_cast<double>(ns);
  const auto settle = static_cast<uint64_t>(ticks_per_ns * static_cast<double>(settle_ns_));
  return now.ticks > settle ? now.ticks - settle : 0;
}

void SpoolFollower::drop_taken() {
  if (!merge_)
    return;
  order_gaps_ += merge_->order_gaps();
  for (size_t i = 0; i < ready_logs_.size(); ++i) {
    auto& pending = ready_logs_[i]->pending;
    pending.erase(pending.begin(), pending.begin() + static_cast<ptrdiff_t>(merge_->taken(i)));
  }
  ready_.clear();
  ready_logs_.clear();
}

// Lists all chunks that there are; false: so many are appended at this moment that it could not.
bool SpoolFollower::list(Windows& windows) {
  constexpr int kMostTries = 100;
  listed_since_ = false;
  windows = list_windows();
  for (int i = 0; i < kMostTries; ++i) {
    list_appended();
    list_packed();
    Windows after = list_windows();
    if (after == windows)
      return true;
    windows = std::move(after);
  }
  return false;
}

template <class Header>
void SpoolFollower::list_chunk(const Header& header, Place place, size_t bytes) {
  if (header.anchor.ticks > last_anchor_.ticks)
    last_anchor_ = header.anchor;
  Log& log = logs_[header.log];
  if (header.index < log.chunk) // it was read to its end while it was elsewhere
    return;
  if (log.appended.insert_or_assign(header.index, place).second)
    bytes_published_ += bytes;
}

void SpoolFollower::list_appended() {
  const size_t size = records_file_.file_size();
  for (; listed_bytes_ + sizeof(ChunkHeader) <= size; listed_bytes_ += control_.chunk_bytes) {
    ChunkHeader header{};
    if (!records_file_.read(&header, sizeof header, listed_bytes_))
      return;
    if (header.magic == kChunkMagic && header.log != 0) {
      list_chunk(header, {false, listed_bytes_}, room() * kRecordBytes);
    } else if (listed_bytes_ + control_.chunk_bytes >= size) {
      return; // the last one: perhaps it is being written
    }
  }
}

void SpoolFollower::list_packed() {
  packed_files_.read_on();
  for (const auto& chunks = packed_files_.chunks(); listed_packed_ < chunks.size();
       ++listed_packed_) {
    const PackedHeader& header = chunks[listed_packed_].header;
    list_chunk(header, {true, listed_packed_}, header.records * kRecordBytes);
  }
}

SpoolFollower::Windows SpoolFollower::list_windows() {
  windows_file_.grow();
  Windows windows;
  const size_t size = windows_file_.size();
  for (size_t at = 0; at + control_.chunk_bytes <= size; at += control_.chunk_bytes) {
    const auto* header = reinterpret_cast<const ChunkHeader*>(windows_file_.data() + at);
    if (load(&header->magic) == kChunkMagic && header->log != 0)
      windows[{header->log, header->index}] = at;
  }
  return windows;
}

bool SpoolFollower::fill(uint32_t number, Log& log, const Windows& windows) {
  log.more = false;
  while (log.pending.size() < kMostPending) {
    if (const auto window = windows.find({number, log.chunk}); window != windows.end()) {
      if (!take_window(number, log, window->second)) {
        list_appended(); // it was appended or packed before it was cleared
        list_packed();
        listed_since_ = true;
        if (!take_appended(number, log))
          return false;
      } else if (log.place < room()) {
        return true;
      }
    } else if (!take_appended(number, log)) {
      const uint64_t next = next_known(number, log, windows);
      if (next == UINT64_MAX)
        return true;
      // Windows are not packed in their order: this chunk may be in one that was not listed again.
      if (listed_since_)
        return false;
      // Of a chunk that is nowhere, though a later one is there, nothing is left: the disk was
      // full.
      missing_chunks_ += next - log.chunk;
      log.chunk = next;
      log.place = 0;
      continue;
    }
    log.appended.erase(log.chunk++);
    log.place = 0;
  }
  log.more = true;
  return true;
}

// False: it was cleared meanwhile, and what was copied of it is worth nothing.
bool SpoolFollower::take_window(uint32_t number, Log& log, size_t offset) {
  const auto* header = reinterpret_cast<const ChunkHeader*>(windows_file_.data() + offset);
  const auto* records = reinterpret_cast<const Record*>(header + 1);
  size_t end = log.place;
  while (end < room() && is_published(records[end]))
    ++end;
  const size_t before = log.pending.size();
  log.pending.insert(log.pending.end(), records + log.place, records + end);
  // ThreadSanitizer knows no fences; the writer is another process, or another mapping, to it
  // anyway.
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  if (load(&header->magic) != kChunkMagic || header->log != number || header->index != log.chunk) {
    log.pending.resize(before);
    return false;
  }
  bytes_read_ += (end - log.place) * kRecordBytes;
  log.place = end;
  return true;
}

bool SpoolFollower::take_appended(uint32_t number, Log& log) {
  auto found = log.appended.find(log.chunk);
  if (found == log.appended.end())
    return false;
  if (!found->second.packed) {
    if (take_raw(number, log, found->second.at))
      return true;
    list_packed(); // it was packed before it was taken out
    found = log.appended.find(log.chunk);
  }
  if (found->second.packed)
    take_packed(log, found->second.at);
  else
    ++missing_chunks_; // packed, and given up
  return true;
}

// A chunk that was cut short (the disk was full) holds what it holds. False: it was taken out.
bool SpoolFollower::take_raw(uint32_t number, Log& log, size_t offset) {
  const size_t before = log.pending.size();
  size_t count = room() - log.place;
  const size_t from = offset + (log.place + 1) * kRecordBytes;
  const size_t size = records_file_.file_size();
  if (from + count * kRecordBytes > size)
    count = from < size ? (size - from) / kRecordBytes : 0;
  log.pending.resize(before + count);
  if (!records_file_.read(log.pending.data() + before, count * kRecordBytes, from))
    count = 0;
  ChunkHeader header{};
  if (!records_file_.read(&header, sizeof header, offset) || header.magic != kChunkMagic ||
      header.log != number || header.index != log.chunk) {
    log.pending.resize(before);
    return false;
  }
  keep_published(log, before, before + count);
  return true;
}

void SpoolFollower::take_packed(Log& log, size_t number) {
  const PackedFiles::Chunk& chunk = packed_files_.chunks()[number];
  std::vector<Record> records(chunk.header.records);
  if (!packed_files_.unpack(chunk, records)) {
    ++missing_chunks_; // damaged
    return;
  }
  const size_t before = log.pending.size();
  if (records.size() > log.place)
    log.pending.insert(log.pending.end(), records.begin() + static_cast<ptrdiff_t>(log.place),
                       records.end());
  keep_published(log, before, log.pending.size());
}

void SpoolFollower::keep_published(Log& log, size_t before, size_t end) {
  size_t kept = before;
  while (kept < end && is_published(log.pending[kept]))
    ++kept;
  log.pending.resize(kept);
  bytes_read_ += (kept - before) * kRecordBytes;
}

// The next chunk of the log after this one; UINT64_MAX: none.
uint64_t SpoolFollower::next_known(uint32_t number, const Log& log, const Windows& windows) {
  uint64_t next = UINT64_MAX;
  if (const auto later = log.appended.lower_bound(log.chunk); later != log.appended.end())
    next = later->first;
  if (const auto later = windows.lower_bound({number, log.chunk});
      later != windows.end() && later->first.first == number)
    next = std::min(next, later->first.second);
  return next;
}

} // namespace memtrace
