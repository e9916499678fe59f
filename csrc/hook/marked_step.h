// The step that the program has marked (memtrace.step) and that a thread is in.
//
// Which one follows the task, not the thread: it is the value of a variable of `contextvars`, which
// asyncio and thread pools carry along. It is read where memory is allocated, and written into the
// thread's log when it is another one than before. A program that marks no step pays one load.
#pragma once

#include "hook/thread_state.h"

#include <atomic>
#include <cstdint>

using PyObject = struct _object;

namespace memtrace {

// How often a step was begun or ended so far; 0: none was marked in this recording.
inline std::atomic<uint64_t> g_step_changes{0};

// All under the GIL. After each change of the variable, whose values are `recording` << 32 | number
// of the step: `recording` tells those of this recording from older ones. False: contexts are not
// laid out as expected, and no step is told.
bool steps_changed(PyObject* variable, uint32_t recording);
void forget_steps() noexcept;

void find_marked_step(ThreadState& state, const Recording& recording) noexcept;

// Makes ThreadState::marked_step what it is now. Where a lock of an allocator may be held.
inline void update_marked_step(ThreadState& state, const Recording& recording) noexcept {
  if (g_step_changes.load(std::memory_order_relaxed) != 0) [[unlikely]]
    find_marked_step(state, recording);
}

} // namespace memtrace
