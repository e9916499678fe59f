// A backward pass (a graph task of autograd's engine): where it begins and where it ends.
//
// It begins with its first node, whichever thread runs that. Its end is told by a callback in the
// engine's own queue, as DDP has one, which the engine calls when all nodes have run and before
// backward() returns; a task that fails drops the callback, and with it what the callback holds.
#pragma once

#include "hook/thread_state.h"

#include <cstdint>
#include <functional>

namespace memtrace {

// This thread runs a node of another task than before: the backward of what the thread of that
// number (RecordFunction's) computed; 0: not known. Marks backward_begin once per task.
void begin_backward(const HookScope& scope, int32_t graph_task, uint64_t forward_thread) noexcept;

// A thread (RecordFunction's number) calls models with autograd on, or steps an optimizer. Before
// it has gradients.
void note_training_thread(uint64_t thread) noexcept;

// Calls `look` unless a backward pass is under way, and lets none begin meanwhile. It must be short
// and wait for nothing, nor run Python: that may give up the GIL, which who waits here may have.
// Nor when several threads train: torch drops a gradient without the GIL, so only the thread whose
// parameters they are may look at them, and the engine does not say whose.
void while_no_backward(const std::function<void()>& look);

// A recording begins: who trained before it may be gone.
void forget_training_threads() noexcept;

// In a forked child, where none of the parent's ends.
void forget_backwards() noexcept;

} // namespace memtrace
