#include "record/recorder.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <stdexcept>
#include <sys/mman.h>
#include <unistd.h>

namespace memtrace {
namespace {

int open_private(const std::string& path) {
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0)
    throw std::runtime_error("cannot create " + path + ": " + std::strerror(errno));
  return fd;
}

// Space is taken before a page is mapped: a sparse mapping on a full disk is a SIGBUS in the host.
bool reserve_space(int fd, off_t offset, off_t size) noexcept {
  int status;
  do {
    status = fallocate(fd, 0, offset, size);
  } while (status != 0 && errno == EINTR);
  if (status == 0)
    return true;
  if (errno != EOPNOTSUPP && errno != ENOSYS)
    return false;
  // A file system without fallocate: writing zeros reserves as well, only slower.
  static const char zeros[4096] = {};
  for (off_t done = 0; done < size;) {
    const ssize_t n = pwrite(fd, zeros, sizeof zeros, offset + done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n != static_cast<ssize_t>(sizeof zeros))
      return false;
    done += n;
  }
  return true;
}

// Bytes written before the disk was full, or all.
size_t write_at(int fd, const void* data, size_t size, off_t offset) noexcept {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pwrite(fd, static_cast<const char*>(data) + done, size - done,
                             offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      break;
    done += static_cast<size_t>(n);
  }
  return done;
}

} // namespace

Recorder::Recorder(const std::string& directory, uint32_t python_hex) {
  const int control_fd = open_private(directory + "/control.bin");
  windows_fd_ = open_private(directory + "/windows.bin");
  records_fd_ = open_private(directory + "/records.bin");
  text_fd_ = open_private(directory + "/text.log");
  void* page = MAP_FAILED;
  if (reserve_space(control_fd, 0, kControlBytes))
    page = mmap(nullptr, kControlBytes, PROT_READ | PROT_WRITE, MAP_SHARED, control_fd, 0);
  const int reason = errno;
  ::close(control_fd);
  if (page == MAP_FAILED) {
    for (const int fd : {windows_fd_, records_fd_, text_fd_})
      ::close(fd);
    throw std::runtime_error("cannot reserve space in " + directory + ": " +
                             std::strerror(reason));
  }
  madvise(page, kControlBytes, MADV_DONTFORK);
  control_ = static_cast<Control*>(page);
  control_->version = kSpoolVersion;
  control_->chunk_bytes = kChunkBytes;
  control_->pid = static_cast<uint64_t>(getpid());
  control_->clock = kClock;
  control_->python_hex = python_hex;
  control_->start = clock_anchor();
  control_->start_unix_ns = clock_ns(CLOCK_REALTIME);
  std::atomic_ref<uint64_t>(control_->magic).store(kSpoolMagic, std::memory_order_release);
  note_log_ = acquire_log();
}

Recorder::~Recorder() {
  close();
  for (ThreadLog* log : logs_) {
    for (void* window : log->windows)
      if (window)
        munmap(window, kChunkBytes);
    delete log;
  }
  if (control_)
    munmap(control_, kControlBytes);
  for (const int fd : {windows_fd_, records_fd_, text_fd_})
    if (fd >= 0)
      ::close(fd);
}

// ---- logs ---------------------------------------------------------------------------------------

ThreadLog* Recorder::acquire_log() noexcept {
  std::lock_guard lock(logs_mutex_);
  if (free_logs_) {
    ThreadLog* log = free_logs_;
    free_logs_ = log->next_free;
    log->next_free = nullptr;
    return log;
  }
  auto* log = new (std::nothrow) ThreadLog;
  if (!log)
    return nullptr;
  log->recorder = this;
  log->refill = &Recorder::refill;
  log->number = static_cast<uint32_t>(logs_.size()) + 1;
  logs_.push_back(log);
  return log;
}

void Recorder::release_log(ThreadLog* log) noexcept {
  std::lock_guard lock(logs_mutex_);
  log->next_free = free_logs_;
  free_logs_ = log;
}

bool Recorder::refill(ThreadLog* log) noexcept {
  return static_cast<Recorder*>(log->recorder)->next_window(log);
}

void* Recorder::map_window() noexcept {
  std::lock_guard lock(logs_mutex_);
  if (closed_)
    return nullptr;
  const auto offset = static_cast<off_t>(windows_mapped_ * kChunkBytes);
  if (!reserve_space(windows_fd_, offset, kChunkBytes))
    return nullptr;
  void* window = mmap(nullptr, kChunkBytes, PROT_READ | PROT_WRITE, MAP_SHARED, windows_fd_, offset);
  if (window == MAP_FAILED)
    return nullptr;
  ++windows_mapped_;
  madvise(window, kChunkBytes, MADV_DONTFORK);
  return window;
}

bool Recorder::next_window(ThreadLog* log) noexcept {
  flush(log);
  const bool first = log->cursor == nullptr;
  const uint32_t next = first ? 0 : 1 - log->active;
  if (!log->windows[next])
    log->windows[next] = map_window();
  void* window = log->windows[next];
  if (!window) {
    if (first || closed_)
      return false;
    // No room for a second window: the only one is appended and used again at once.
    window = log->windows[log->active];
    append_window(window);
  } else {
    log->flush_pending = !first;
    log->active = next;
  }
  auto* header = static_cast<ChunkHeader*>(window);
  header->log = log->number;
  header->index = log->chunks++;
  header->anchor = clock_anchor();
  std::atomic_ref<uint32_t>(header->magic).store(kChunkMagic, std::memory_order_release);
  log->cursor = static_cast<Record*>(window) + 1;
  log->end = log->cursor + kRecordsPerChunk;
  return true;
}

void Recorder::flush(ThreadLog* log) noexcept {
  if (!log->flush_pending)
    return;
  append_window(log->windows[1 - log->active]);
  log->flush_pending = false;
}

// Appends a full window to records.bin and clears it. A kill in between leaves the chunk in both
// files or, with its magic gone, in records.bin alone.
void Recorder::append_window(void* window) noexcept {
  const uint64_t offset = records_size_.fetch_add(kChunkBytes, std::memory_order_relaxed);
  const size_t written =
      write_at(records_fd_, window, kChunkBytes, static_cast<off_t>(offset)) / kRecordBytes;
  const auto* records = static_cast<const Record*>(window);
  for (size_t i = written > 0 ? written : 1; i <= kRecordsPerChunk; ++i) // the disk is full
    lose(is_allocator_event(records[i].event.tail.action) ? Loss::event_no_space
                                                          : Loss::record_no_space);
  std::atomic_ref<uint32_t>(static_cast<ChunkHeader*>(window)->magic)
      .store(0, std::memory_order_release);
  std::memset(window, 0, kChunkBytes);
}

template <class Kind> void Recorder::write_slowly(const Kind& record, Loss loss) noexcept {
  static_assert(sizeof(Kind) == sizeof(Record) && std::is_trivially_copyable_v<Kind>);
  std::lock_guard lock(note_mutex_);
  Record* place = note_log_ && !closed_ ? note_log_->reserve() : nullptr;
  if (!place)
    return lose(loss);
  std::memcpy(place, &record, sizeof record - sizeof record.tail);
  place->event.ticks = ticks_after(); // inside the lock: this log stays in the order of its ticks
  note_log_->publish(record.tail);
}

void Recorder::note(const Note& note) noexcept { write_slowly(note, Loss::record_no_space); }

void Recorder::event(const AllocatorEvent& event) noexcept {
  write_slowly(event, Loss::external_failed);
}

// ---- text ---------------------------------------------------------------------------------------

uint32_t Recorder::next_id(TextKind kind) noexcept {
  std::lock_guard lock(text_mutex_);
  return ++next_ids_[static_cast<size_t>(kind)];
}

bool Recorder::text(TextKind kind, uint32_t id, const void* payload, size_t size) noexcept {
  std::lock_guard lock(text_mutex_);
  return append_text(kind, id, payload, size);
}

bool Recorder::append_text(TextKind kind, uint32_t id, const void* payload,
                           size_t size) noexcept {
  constexpr size_t kOnStack = 4096;
  char small[kOnStack];
  const size_t total = sizeof(TextFrame) + size;
  char* buffer = total <= kOnStack ? small : new (std::nothrow) char[total];
  const TextFrame frame{static_cast<uint32_t>(size), kind, kTextCheck, id};
  bool written = false;
  if (buffer && !closed_) {
    std::memcpy(buffer, &frame, sizeof frame);
    if (size > 0)
      std::memcpy(buffer + sizeof frame, payload, size);
    written = write_at(text_fd_, buffer, total, static_cast<off_t>(text_size_)) == total;
  }
  if (buffer != small)
    delete[] buffer;
  if (written)
    text_size_ += total; // else the next text overwrites what was cut off
  else
    lose(Loss::text_no_space);
  return written;
}

uint32_t Recorder::intern(std::string_view name) noexcept {
  if (name.empty())
    return 0;
  try {
    std::lock_guard lock(text_mutex_);
    auto [at, fresh] = names_.try_emplace(std::string(name), 0);
    if (fresh) { // written under the lock: nobody may use the id before its text is in the file
      at->second = ++next_ids_[static_cast<size_t>(TextKind::name)];
      append_text(TextKind::name, at->second, name.data(), name.size());
    }
    return at->second;
  } catch (...) { // no memory for the table
    lose(Loss::text_no_space);
    return 0;
  }
}

// ---- losses and the end -------------------------------------------------------------------------

void Recorder::lose(Loss kind, uint64_t count) noexcept {
  if (!control_)
    return;
  std::atomic_ref<uint64_t>(control_->lost[static_cast<size_t>(kind)])
      .fetch_add(count, std::memory_order_relaxed);
}

uint64_t Recorder::lost(Loss kind) const noexcept {
  if (!control_)
    return 0;
  return std::atomic_ref<uint64_t>(control_->lost[static_cast<size_t>(kind)])
      .load(std::memory_order_relaxed);
}

void Recorder::set_exit_status(int status) noexcept {
  if (!control_)
    return;
  control_->exit_status = status;
  control_->has_exit_status = 1;
}

void Recorder::close() noexcept {
  {
    std::scoped_lock lock(logs_mutex_, text_mutex_);
    if (closed_ || !control_)
      return;
    closed_ = true;
  }
  control_->end = clock_anchor();
  control_->end_unix_ns = clock_ns(CLOCK_REALTIME);
  std::atomic_ref<uint32_t>(control_->complete).store(1, std::memory_order_release);
}

void Recorder::abandon() noexcept {
  // No lock: another thread of the parent may have held one at the fork. The maps are not here.
  closed_ = true;
  control_ = nullptr;
  logs_.clear();
  free_logs_ = nullptr;
  note_log_ = nullptr;
  for (int* fd : {&windows_fd_, &records_fd_, &text_fd_}) {
    ::close(*fd);
    *fd = -1;
  }
}

} // namespace memtrace
