// Records of what is not hot, written by the hook into the log of the calling thread: at their
// place among the thread's events.
#pragma once

#include "hook/thread_state.h"
#include "record/clock.h"

#include <cstring>
#include <string_view>
#include <type_traits>

namespace memtrace {

inline uint32_t intern(const HookScope& scope, std::string_view text) noexcept {
  const RecorderApi& api = scope.recording().api;
  return api.intern(api.recorder, text.data(), text.size());
}

// The time is now, unless it is given; thread 0 in the tail: the writer. The whole record is
// written: its place may hold what an earlier one left there.
template <class Kind>
void write_record(const HookScope& scope, Kind record, uint64_t ticks = ticks_after()) noexcept {
  static_assert(sizeof(Kind) == sizeof(Record) && std::is_trivially_copyable_v<Kind>);
  ThreadState& state = scope.state();
  Record* place = state.log->reserve();
  if (!place)
    return scope.recording().lose(Loss::record_no_space);
  record.ticks = ticks;
  std::memcpy(place, &record, sizeof record - sizeof record.tail);
  if (record.tail.thread == 0)
    record.tail.thread = state.thread;
  state.log->publish(record.tail);
}

// `thread`: that the mark is of, when it is another one than the writer.
inline void write_mark(const HookScope& scope, std::string_view kind, uint64_t value = 0,
                       uint32_t thread = 0) noexcept {
  Note note{};
  note.value = value;
  note.name = intern(scope, kind);
  note.tail = {thread, 0, kCpu, Action::mark};
  write_record(scope, note);
}

// Where no lock of an allocator is held: appends the window that is full.
inline void flush_full_window(const ThreadState& state, const Recording& recording) noexcept {
  if (state.log->flush_pending) [[unlikely]]
    recording.api.flush(recording.api.recorder, state.log);
}
inline void flush_full_window(const HookScope& scope) noexcept {
  flush_full_window(scope.state(), scope.recording());
}

} // namespace memtrace
