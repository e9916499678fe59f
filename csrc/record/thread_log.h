// An append-only log of records with one writer: the thread that holds it.
//
// A log writes into one of its windows: a few mapped chunks each, which stay resident. The writer
// fills records in place and publishes each with one release store; when a window is full it goes
// on in another one. The full one is handed to the process beside the program that packs such
// windows; where there is none it is appended to records.bin, at the next moment when no allocator
// lock is held (or, at the latest, when the other one is full as well). When a thread ends, its log
// goes to the next thread that asks for one.
#pragma once

#include "record/event.h"
#include "record/spool.h"

#include <atomic>
#include <bit>
#include <cstdint>

namespace memtrace {

// In the place of a window's number: one of those that were handed over.
constexpr uint32_t kHandedWindow = kWindowsPerLog;

struct ThreadLog {
  struct Window {
    void* chunks = nullptr; // most_chunks of them, mapped from windows.bin
    uint64_t place = 0;     // there, in bytes
    uint32_t reserved = 0;  // those of them that have space on disk, and may be written to
    uint32_t begun = 0;     // those of them that hold records
  };

  Record* cursor = nullptr;
  Record* end = nullptr;
  // Gives the log its next chunk; false: no space, the record is lost (and was not counted yet).
  bool (*refill)(ThreadLog*) noexcept = nullptr;

  // Owned by the recorder.
  void* recorder = nullptr;
  Window windows[kWindowsPerLog] = {}; // the last ones are used where full ones are handed over
  uint32_t active = 0;                 // the window that cursor points into
  uint32_t full = 0;                   // the window to be appended, or kHandedWindow, if
  bool flush_pending = false;          // there is one
  uint32_t number = 0;                 // from 1
  uint64_t chunks = 0;                 // chunks begun so far
  ThreadLog* next_free = nullptr;

  bool is_large() const noexcept { return number <= kLargeLogs; }
  // Of a window.
  uint32_t most_chunks() const noexcept { return is_large() ? kChunksPerWindow : 1; }

  // The place of the next record, or null when there is no space.
  Record* reserve() noexcept {
    if (cursor == end) [[unlikely]]
      if (!refill(this))
        return nullptr;
    return cursor;
  }

  // Publishes the record that reserve() returned; its other fields are written by now.
  void publish(const Tail& tail) noexcept {
    static_assert(sizeof(Tail) == sizeof(uint64_t));
    publish_word(cursor, std::bit_cast<uint64_t>(tail));
  }
  // `record` is the cursor; said again, so that it need not be loaded again.
  void publish_word(Record* record, uint64_t tail) noexcept {
    auto* word = reinterpret_cast<uint64_t*>(&record->event.tail);
    std::atomic_ref<uint64_t>(*word).store(tail, std::memory_order_release);
    cursor = record + 1;
  }
};

} // namespace memtrace
