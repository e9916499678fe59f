// One recording of one process: its spool on disk, its logs, its names, its losses.
//
// Threads: every method may be called from any thread, with or without the GIL, also under torch's
// allocator lock: nothing here takes the GIL, blocks on another thread's I/O for long, or throws.
// The hot path is ThreadLog alone; everything here is called once per full window, per name, per
// thread. Fork: the child's copy is abandoned before fork() returns there, whoever called it: it
// writes nothing any more, and the child may make one of its own. The mappings are not inherited
// (MADV_DONTFORK).
#pragma once

#include "record/clock.h"
#include "record/spool.h"
#include "record/spool_file.h"
#include "record/thread_log.h"

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <unordered_map>
#include <vector>

namespace memtrace {

class Recorder {
 public:
  // Creates the files in an existing, empty directory. Throws std::runtime_error (with the
  // path and the reason) when they cannot be made: the only place that throws. While records.bin
  // takes `most_records_bytes` of the disk, records are lost as if it were full (it may take 4 MiB
  // more, which are reserved ahead); a reader that takes out what it has read makes room again.
  // 0: no such limit.
  Recorder(const std::string& directory, uint32_t python_hex, uint64_t most_records_bytes = 0);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  uint64_t most_records_bytes() const noexcept { return most_records_bytes_; }

  ThreadLog* acquire_log() noexcept;
  void release_log(ThreadLog* log) noexcept;
  // Appends the log's full window, if it is to be; called by its thread where no allocator lock is
  // held.
  void flush(ThreadLog* log) noexcept;

  // The id of a string, written to text.log on first sight. 0 only for the empty string.
  uint32_t intern(std::string_view name) noexcept;
  bool text(TextKind kind, uint32_t id, const void* payload, size_t size) noexcept;
  // A new id; of TextKind::thread: the calling thread's.
  uint32_t next_id(TextKind kind) noexcept;
  // The calling thread's number: kMainThread, or the next one at its first call.
  uint32_t thread_id() noexcept;
  void lose(Loss kind, uint64_t count = 1) noexcept;
  uint64_t lost(Loss kind) const noexcept;

  // Writes a note into the recorder's own log; for the slow callers (marks, samples, stages).
  void note(const Note& note) noexcept;
  // Likewise an allocator event that no hook saw: memory from before the recording (preexisting) or
  // from outside torch's allocators (external). Its order is 0: placed by its ticks alone.
  void event(const AllocatorEvent& event) noexcept;

  void set_exit_status(int status) noexcept;
  // Marks the spool complete and stops accepting records. Idempotent. `quiet`: no thread uses a log
  // any more, so their windows are unmapped, and the control page when the next recorder is made;
  // else they stay mapped for the life of the process.
  void close(bool quiet) noexcept;
  // In a forked child: forget everything without touching the parent's files. fork() does it, but
  // not a bare clone().
  void abandon() noexcept;

 private:
  static void abandon_all() noexcept;
  static bool refill(ThreadLog* log) noexcept;
  bool next_chunk(ThreadLog* log) noexcept;
  ThreadLog::Window* next_window(ThreadLog* log) noexcept;
  ThreadLog::Window* idle_window(ThreadLog* log, uint32_t most) noexcept;
  bool has_idle_window(const ThreadLog& log) const noexcept;
  ThreadLog::Window* take_back(ThreadLog* log) noexcept;
  void hand_over(const ThreadLog& log, uint32_t window) noexcept;
  bool is_packed_beside(const ThreadLog& log) const noexcept;
  // Of a window of a large log: Handover::handed.
  std::atomic_ref<uint64_t> handed(const ThreadLog& log, uint32_t window) const noexcept {
    return std::atomic_ref(handover_->handed[(log.number - 1) * kWindowsPerLog + window]);
  }
  bool reserve_chunk(const ThreadLog& log, ThreadLog::Window& window) noexcept;
  void append_window(ThreadLog::Window& window) noexcept;
  bool may_append(const ChunkHeader& header) noexcept;
  void reserve_records_ahead(uint64_t bytes) noexcept;
  void unmap_control() noexcept;
  template <class Kind> void write_slowly(const Kind& record, Loss loss) noexcept;
  bool append_text(TextKind kind, uint32_t id, const void* payload, size_t size) noexcept;

  std::mutex logs_mutex_;
  std::vector<ThreadLog*> logs_;
  ThreadLog* free_logs_ = nullptr;
  uint64_t windows_size_ = 0; // of windows.bin, as far as it is given out
  std::atomic<bool> closed_ = false;

  const uint64_t serial_; // no other recorder of this process has it, at whatever address
  const pid_t pid_;       // whose mappings these are
  Recorder* older_ = nullptr;

  std::mutex text_mutex_;
  struct NameHash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, uint32_t, NameHash, std::equal_to<>> names_;
  uint64_t text_size_ = 0;
  uint32_t next_ids_[16] = {};

  std::mutex note_mutex_;
  ThreadLog* note_log_ = nullptr;

  Control* control_ = nullptr;
  Handover* handover_ = nullptr;
  const uint64_t most_records_bytes_;
  uint64_t records_size_ = 0;  // under records_mutex_
  uint64_t records_ahead_ = 0; // space is reserved up to here; likewise
  SpoolFile windows_file_;     // used under logs_mutex_
  SpoolFile text_file_;        // used under text_mutex_
  std::mutex records_mutex_;
  SpoolFile records_file_; // used under records_mutex_
};

} // namespace memtrace
