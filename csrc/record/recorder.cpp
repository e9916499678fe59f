#include "record/recorder.h"

#include "record/writer_life.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <linux/futex.h>
#include <new>
#include <pthread.h>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace memtrace {
namespace {

std::atomic<uint64_t> g_recorders = 0;

// The number of this thread in the recorder that it was last asked for.
struct ThreadNumber {
  uint64_t recorder;
  uint32_t number;
};
thread_local ThreadNumber t_number{};

// The last one that has ended quietly. Its page takes late words (the exit status, losses) until
// another one begins, so that there is one such page and not one for each.
std::atomic<Recorder*> g_ended = nullptr;

// All that were made and not destroyed, the newest first. Changed under the mutex by one store
// each, so that the child of a fork at any moment finds it whole.
constinit std::mutex g_all_mutex;
std::atomic<Recorder*> g_newest = nullptr;

// What another thread of the parent had under way is not finished here: begun anew, and what it
// held is left behind.
template <class Kind> void begin_anew(Kind& object) noexcept {
  new (&object) Kind;
}

// The only page of a file, shared; null: there is no space. A forked child does not have it.
void* map_page(SpoolFile& file) noexcept {
  static_assert(kControlBytes == kHandoverBytes);
  void* page = MAP_FAILED;
  if (file.reserve(0, kControlBytes))
    page = mmap(nullptr, kControlBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor(), 0);
  if (page == MAP_FAILED)
    return nullptr;
  madvise(page, kControlBytes, MADV_DONTFORK);
  return page;
}

// Sixteen page faults at once: one by one, in a kernel that a large operator has left cold, they
// cost 30 us each. Before Linux 5.14 they come one by one.
void populate(void* chunk) noexcept {
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;
#endif
  madvise(chunk, kChunkBytes, MADV_POPULATE_WRITE);
}

void unmap_page(void* page) noexcept {
  if (page)
    munmap(page, kControlBytes);
}

} // namespace

Recorder::Recorder(const std::string& directory, uint32_t python_hex, uint64_t most_records_bytes)
    : serial_(++g_recorders), pid_(getpid()), most_records_bytes_(most_records_bytes) {
  SpoolFile control_file, handover_file;
  control_file.create(directory + "/control.bin");
  handover_file.create(directory + "/handover.bin");
  windows_file_.create(directory + "/windows.bin");
  records_file_.create(directory + "/records.bin");
  text_file_.create(directory + "/text.log");
  handover_ = static_cast<Handover*>(map_page(handover_file));
  // Others see by this mapping that we live (writer_life.cpp): it is never taken away, and a forked
  // child does not have it.
  control_ = static_cast<Control*>(map_page(control_file));
  if (!handover_ || !control_) {
    const int error = errno;
    unmap_page(handover_);
    unmap_page(control_);
    throw std::runtime_error("cannot reserve space in " + directory + ": " +
                             std::generic_category().message(error));
  }
  control_->version = kSpoolVersion;
  control_->chunk_bytes = kChunkBytes;
  control_->pid = static_cast<uint64_t>(getpid());
  control_->clock = kClock;
  control_->python_hex = python_hex;
  control_->start = clock_anchor();
  control_->start_unix_ns = clock_ns(CLOCK_REALTIME);
  control_->writer = this_writer();
  std::atomic_ref<uint64_t>(control_->magic).store(kSpoolMagic, std::memory_order_release);
  note_log_ = acquire_log();
  if (Recorder* ended = g_ended.exchange(nullptr))
    ended->unmap_control();
  // C code forks without Python's knowledge (daemon(), a library): nothing else would tell us.
  static const int fork_handler = pthread_atfork(nullptr, nullptr, &Recorder::abandon_all);
  (void)fork_handler;
  const std::lock_guard lock(g_all_mutex);
  older_ = g_newest;
  g_newest = this;
}

Recorder::~Recorder() {
  {
    const std::lock_guard lock(g_all_mutex);
    if (g_newest == this)
      g_newest = older_;
    for (Recorder* other = g_newest; other; other = other->older_)
      if (other->older_ == this)
        other->older_ = older_;
  }
  close(true);
  Recorder* self = this;
  g_ended.compare_exchange_strong(self, nullptr);
  unmap_control();
}

void Recorder::unmap_control() noexcept {
  Control* const control = std::exchange(control_, nullptr);
  if (pid_ == getpid()) // a forked child has no such mapping
    unmap_page(control);
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
  return static_cast<Recorder*>(log->recorder)->next_chunk(log);
}

bool Recorder::next_chunk(ThreadLog* log) noexcept {
  ThreadLog::Window* window = &log->windows[log->active];
  if (window->begun == log->most_chunks() || !reserve_chunk(*log, *window))
    window = next_window(log);
  if (!window)
    return false;
  auto* header = reinterpret_cast<ChunkHeader*>(static_cast<char*>(window->chunks) +
                                                window->begun * kChunkBytes);
  ++window->begun;
  header->log = log->number;
  header->index = log->chunks++;
  header->anchor = clock_anchor();
  std::atomic_ref<uint32_t>(header->magic).store(kChunkMagic, std::memory_order_release);
  log->cursor = reinterpret_cast<Record*>(header) + 1;
  log->end = log->cursor + kRecordsPerChunk;
  return true;
}

// The window to go on in, empty; null: there is none.
ThreadLog::Window* Recorder::next_window(ThreadLog* log) noexcept {
  flush(log);
  ThreadLog::Window& full = log->windows[log->active];
  if (full.begun == 0 || closed_)
    return nullptr;
  const bool beside = is_packed_beside(*log);
  ThreadLog::Window* next = idle_window(log, beside ? kWindowsPerLog : 2);
  if (!next)
    next = take_back(log);
  if (!next) { // no room for another window: the only one is appended and used again at once
    append_window(full);
    return &full;
  }
  const uint32_t number = std::exchange(log->active, static_cast<uint32_t>(next - log->windows));
  if (beside)
    hand_over(*log, number);
  // The packer is behind: better a window is taken back where no lock is held than when it is
  // needed.
  log->flush_pending = !beside || !has_idle_window(*log);
  log->full = beside ? kHandedWindow : number;
  return next;
}

// One of the first so many windows that is not written to; null: there is no room for one.
ThreadLog::Window* Recorder::idle_window(ThreadLog* log, uint32_t most) noexcept {
  for (uint32_t number = 0; number < most; ++number) {
    ThreadLog::Window& window = log->windows[number];
    if (number == log->active ||
        (log->is_large() && handed(*log, number).load(std::memory_order_acquire) != 0))
      continue;
    window.begun = 0; // whoever had it has cleared it
    if (reserve_chunk(*log, window))
      return &window;
  }
  return nullptr;
}

bool Recorder::has_idle_window(const ThreadLog& log) const noexcept {
  for (uint32_t number = 0; number < kWindowsPerLog; ++number)
    if (number != log.active && handed(log, number).load(std::memory_order_relaxed) == 0)
      return true;
  return false;
}

// A window that was handed over and that nobody took: the packer is behind, or it is gone.
ThreadLog::Window* Recorder::take_back(ThreadLog* log) noexcept {
  for (uint32_t number = 0; number < kWindowsPerLog && log->is_large(); ++number) {
    uint64_t word = handed(*log, number).load(std::memory_order_relaxed);
    if (word == 0 || (word & kHandedTaken) != 0 ||
        !handed(*log, number).compare_exchange_strong(word, 0, std::memory_order_acquire))
      continue;
    append_window(log->windows[number]);
    return &log->windows[number];
  }
  return nullptr;
}

// A packer that polls needs no waking, one that sleeps has not seen this window: it looks once more
// after it has said that it will (window_packer.cpp).
void Recorder::hand_over(const ThreadLog& log, uint32_t window) noexcept {
  const ThreadLog::Window& full = log.windows[window];
  handed(log, window).store(handed_window(full.place, full.begun), std::memory_order_seq_cst);
  PackerState asleep = PackerState::asleep;
  const std::atomic_ref packer(handover_->packer);
  if (packer.load(std::memory_order_seq_cst) == asleep &&
      packer.compare_exchange_strong(asleep, PackerState::awake))
    syscall(SYS_futex, &handover_->packer, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

// Not within a limit: the packer knows of none.
bool Recorder::is_packed_beside(const ThreadLog& log) const noexcept {
  return log.is_large() && most_records_bytes_ == 0 &&
         std::atomic_ref(handover_->packer).load(std::memory_order_relaxed) != PackerState::none;
}

// Sees to it that the window has space for one more chunk; its addresses come with the first.
bool Recorder::reserve_chunk(const ThreadLog& log, ThreadLog::Window& window) noexcept {
  if (window.begun < window.reserved)
    return true;
  {
    std::lock_guard lock(logs_mutex_);
    if (closed_)
      return false;
    const uint64_t place = window.chunks ? window.place : windows_size_;
    if (!windows_file_.reserve(static_cast<off_t>(place + window.reserved * kChunkBytes),
                               kChunkBytes))
      return false;
    if (!window.chunks) {
      const size_t bytes = log.most_chunks() * kChunkBytes;
      void* chunks = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                          windows_file_.descriptor(), static_cast<off_t>(place));
      if (chunks == MAP_FAILED)
        return false;
      madvise(chunks, bytes, MADV_DONTFORK);
      window.chunks = chunks;
      window.place = place;
      windows_size_ += bytes;
    }
  }
  if (log.is_large()) // of the threads beyond so many most hardly allocate
    populate(static_cast<char*>(window.chunks) + window.reserved * kChunkBytes);
  ++window.reserved;
  return true;
}

void Recorder::flush(ThreadLog* log) noexcept {
  if (!log->flush_pending)
    return;
  log->flush_pending = false;
  if (log->full == kHandedWindow)
    take_back(log);
  else
    append_window(log->windows[log->full]);
}

// Appends a full window to records.bin and clears it. A kill in between leaves its chunks in both
// files or, with their magic gone, in records.bin alone.
void Recorder::append_window(ThreadLog::Window& window) noexcept {
  const size_t bytes = window.begun * kChunkBytes;
  size_t written = 0;
  {
    std::lock_guard lock(records_mutex_); // the kernel takes the file's own lock for a write anyway
    if (may_append(*static_cast<const ChunkHeader*>(window.chunks))) {
      reserve_records_ahead(bytes);
      written = records_file_.write_at(window.chunks, bytes, static_cast<off_t>(records_size_)) /
                kRecordBytes;
      records_size_ += bytes;
    }
  }
  auto* chunk = static_cast<Record*>(window.chunks);
  for (uint32_t number = 0; number < window.begun; ++number, chunk += kRecordsPerChunk + 1) {
    auto magic = std::atomic_ref(reinterpret_cast<ChunkHeader*>(chunk)->magic);
    const bool is_packed = magic.load(std::memory_order_relaxed) == 0; // by who then had no space
    for (size_t i = written > 0 ? written : 1; i <= kRecordsPerChunk && !is_packed; ++i) // no room
      lose(is_allocator_event(chunk[i].event.tail.action) ? Loss::event_no_space
                                                          : Loss::record_no_space);
    written -= std::min(written, kRecordsPerChunk + 1);
    magic.store(0, std::memory_order_release);
#pragma GCC unroll 8
    for (size_t i = 1; i <= kRecordsPerChunk; ++i) // a record without a tail does not exist
      chunk[i].event.tail = {};
  }
  window.begun = 0;
}

// Under records_mutex_. The notes are few, and without them the rest says less.
bool Recorder::may_append(const ChunkHeader& header) noexcept {
  return most_records_bytes_ == 0 || (note_log_ != nullptr && header.log == note_log_->number) ||
         records_file_.disk_bytes() < most_records_bytes_;
}

// Under records_mutex_. A write into reserved space costs two thirds of one that has to find it. As
// much again as there is, so that a short recording takes little more than it needs.
void Recorder::reserve_records_ahead(uint64_t bytes) noexcept {
  constexpr uint64_t kMostAhead = uint64_t{4} << 20;
  if (records_size_ + bytes <= records_ahead_)
    return;
  const uint64_t ahead = std::clamp<uint64_t>(records_size_, bytes, kMostAhead);
  records_file_.reserve_ahead(static_cast<off_t>(records_size_), static_cast<off_t>(ahead));
  records_ahead_ = records_size_ + ahead;
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

void Recorder::note(const Note& note) noexcept {
  write_slowly(note, Loss::record_no_space);
}

void Recorder::event(const AllocatorEvent& event) noexcept {
  write_slowly(event, Loss::external_failed);
}

// ---- text ---------------------------------------------------------------------------------------

uint32_t Recorder::next_id(TextKind kind) noexcept {
  if (kind == TextKind::thread)
    return thread_id();
  std::lock_guard lock(text_mutex_);
  return ++next_ids_[static_cast<size_t>(kind)];
}

uint32_t Recorder::thread_id() noexcept {
  if (t_number.recorder == serial_)
    return t_number.number;
  const auto os_thread = static_cast<pid_t>(syscall(SYS_gettid));
  std::lock_guard lock(text_mutex_);
  uint32_t& last = next_ids_[static_cast<size_t>(TextKind::thread)];
  last = std::max(last, kMainThread);
  t_number = {serial_, os_thread == getpid() ? kMainThread : ++last};
  const ThreadText text{static_cast<uint64_t>(os_thread), 0};
  append_text(TextKind::thread, t_number.number, &text, sizeof text);
  return t_number.number;
}

bool Recorder::text(TextKind kind, uint32_t id, const void* payload, size_t size) noexcept {
  std::lock_guard lock(text_mutex_);
  return append_text(kind, id, payload, size);
}

bool Recorder::append_text(TextKind kind, uint32_t id, const void* payload, size_t size) noexcept {
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
    written = text_file_.write_at(buffer, total, static_cast<off_t>(text_size_)) == total;
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
  // A program can make names without end; those beyond are written anew at each sight.
  constexpr size_t kMostNames = 1U << 17;
  if (name.empty())
    return 0;
  try {
    std::lock_guard lock(text_mutex_);
    if (closed_) // and has forgotten its names
      return 0;
    const auto known = names_.find(name);
    if (known != names_.end())
      return known->second;
    // Written under the lock: nobody may use the id before its text is in the file.
    const uint32_t id = ++next_ids_[static_cast<size_t>(TextKind::name)];
    append_text(TextKind::name, id, name.data(), name.size());
    if (names_.size() < kMostNames)
      names_.emplace(name, id);
    return id;
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

void Recorder::close(bool quiet) noexcept {
  std::scoped_lock lock(note_mutex_, logs_mutex_, text_mutex_, records_mutex_);
  if (closed_ || !control_)
    return;
  closed_ = true;
  control_->end = clock_anchor();
  control_->end_unix_ns = clock_ns(CLOCK_REALTIME);
  std::atomic_ref<uint32_t>(control_->complete).store(1, std::memory_order_release);
  windows_file_.close();
  records_file_.trim();
  records_file_.close();
  text_file_.close();
  names_ = {};
  if (!quiet)
    return;
  for (ThreadLog* log : logs_) {
    for (const ThreadLog::Window& window : log->windows)
      if (window.chunks)
        munmap(window.chunks, log->most_chunks() * kChunkBytes);
    delete log;
  }
  logs_ = {};
  free_logs_ = note_log_ = nullptr;
  unmap_page(std::exchange(handover_, nullptr));
  if (Recorder* ended = g_ended.exchange(this))
    ended->unmap_control();
}

// In the child of a fork, of one thread. Of those that have ended there is a control page at most.
void Recorder::abandon_all() noexcept {
  begin_anew(g_all_mutex);
  for (Recorder* recorder = g_newest; recorder; recorder = recorder->older_)
    recorder->abandon();
}

void Recorder::abandon() noexcept {
  if (!control_) // it has been, or another recorder began after its end
    return;
  closed_ = true;
  control_ = nullptr; // the maps are not here
  handover_ = nullptr;
  free_logs_ = nullptr;
  note_log_ = nullptr;
  begin_anew(logs_);
  for (std::mutex* mutex : {&logs_mutex_, &text_mutex_, &note_mutex_, &records_mutex_})
    begin_anew(*mutex);
  windows_file_.close();
  records_file_.close();
  text_file_.close();
}

} // namespace memtrace
