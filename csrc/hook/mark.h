// A mark of the calling thread, in its own log: at its place among the thread's events.
#pragma once

#include "hook/thread_state.h"
#include "record/clock.h"

#include <string_view>

namespace memtrace {

// `thread`: that the mark is of, when it is another one than the writer; 0: the writer.
inline void write_mark(const HookScope& scope, std::string_view kind, uint64_t value = 0,
                       uint32_t thread = 0) noexcept {
  const Recording& recording = scope.recording();
  const uint32_t name = recording.api.intern(recording.api.recorder, kind.data(), kind.size());
  Record* record = scope.state().log->reserve();
  if (!record)
    return recording.lose(Loss::record_no_space);
  record->note.ticks = ticks_before();
  record->note.value = value;
  record->note.name = name;
  scope.state().log->publish({thread != 0 ? thread : scope.state().thread, 0, kCpu, Action::mark});
}

} // namespace memtrace
