// The beginning and the end of a call, with the fewest instructions that do for most: no call, and
// no register saved.
//
// Done here: the name is known, the thread has recorded before, and at the end no node of autograd
// has been made; the clock is the processor's. All others go on in operators.cpp.
#pragma once

#include "hook/begun_call.h"
#include "hook/operator_names.h"
#include "hook/python_stack.h"
#include "hook/thread_state.h"
#include "record/clock.h"

#include <cstdint>

namespace memtrace {

// ---- a call begins ------------------------------------------------------------------------------

// Whether a factory called here is part of the operator around it (factory_operators.h). Not so
// where its memory would be said to be of a graph that the one around it has no part in.
inline bool takes_in_factories(const OperatorCall& around, bool records_graph) noexcept {
  return around.owner != 0 && around.has_schema && (around.records_graph || !records_graph);
}

// True: the call may be a context itself, which is yet to be seen to.
template <class ReadTicks>
[[gnu::always_inline]] inline bool push_call(ThreadState& state, const BegunCall& begun,
                                             OperatorCall& parent, const NameSlot& name,
                                             ReadTicks read_ticks) noexcept {
  OperatorCall& call = *(&parent + 1); // sooner than by its own number
  const bool user = begun.scope == at::RecordScope::USER_SCOPE;
  ++state.depth;
  call.function = begun.function;
  call.sequence_number = begun.sequence_number;
  call.forward_thread = begun.forward_thread;
  call.call = ++state.last_call;
  call.name = name.id;
  call.owner = (user || (name.factory && parent.owner != 0)) ? parent.owner : name.id;
  call.top = (parent.top != 0 || user) ? parent.top : name.id;
  call.stack = 0;
  call.nodes_below = 0;
  call.context_place = parent.context_place;
  call.records_graph = parent.records_graph || call.sequence_number >= 0;
  call.kind = ContextKind::none;
  call.scope = static_cast<uint8_t>(begun.scope);
  call.has_schema = !begun.record_function || name.schema_generation != 0;
  call.touched = false;
  call.context_is_written = false;
  call.has_callback = begun.record_function != nullptr;
  call.start_ticks = read_ticks();
  return begun.scope == at::RecordScope::BACKWARD_FUNCTION ||
         (user && name.optimizer != OptimizerScope::none) ||
         state.ended_node.parent_call == parent.call;
}

enum class Begin : uint8_t { done, may_be_context, not_known };

// not_known: nothing has been done.
[[gnu::always_inline]] inline Begin push_known_call(const BegunCall& begun) noexcept {
  ThreadState* const state = t_state;
  if (!state || state->busy.load(std::memory_order_relaxed) || kClock != Clock::tsc ||
      state->recording != g_recording.load(std::memory_order_relaxed)) [[unlikely]]
    return Begin::not_known;
  OperatorCall& parent = state->calls[state->depth];
  if (state->depth >= ThreadState::kMaxDepth || parent.function <= begun.function) [[unlikely]]
    return Begin::not_known;
  const NameSlot* const name = known_name(*state, begun.name);
  if (!name) [[unlikely]]
    return Begin::not_known;
  if (name->factory && takes_in_factories(parent, begun.sequence_number >= 0)) [[unlikely]]
    return Begin::done;
  return push_call(*state, begun, parent, *name, ticks_tsc) ? Begin::may_be_context : Begin::done;
}

inline BegunCall begun_operator(uintptr_t function, const char* name,
                                int64_t sequence_number) noexcept {
  return {function, nullptr, name, sequence_number, 0, at::RecordScope::FUNCTION};
}

// What is left of start_operator() where push_known_call() is not `done`.
void go_on_with_operator(Begin begin, uintptr_t function, const char* name,
                         int64_t sequence_number) noexcept;

// An operator of torch's dispatcher, told by another than RecordFunction's callbacks
// (dispatcher_shortcut.h). `function` is the address of its at::RecordFunction, `name` that of its
// schema's name.
[[gnu::always_inline]] inline void start_operator(uintptr_t function, const char* name,
                                                  int64_t sequence_number) noexcept {
  const Begin begin = push_known_call(begun_operator(function, name, sequence_number));
  if (begin != Begin::done) [[unlikely]]
    go_on_with_operator(begin, function, name, sequence_number);
}

// ---- a call ends --------------------------------------------------------------------------------

// Any call, in any state of the thread. What it was: of it that is a context itself.
ContextKind end_any_call(uintptr_t function) noexcept;

// What a call leaves behind for the one around it, where memory changed in it.
inline void touch_parent(const OperatorCall& call, OperatorCall& parent) noexcept {
  parent.touched = true;
  // A user's scope is Python code: what was allocated in it has no one place.
  if (parent.stack == 0 && parent.scope != static_cast<uint8_t>(at::RecordScope::USER_SCOPE))
    parent.stack = call.stack;
}

// All but what the log adds.
inline void fill_span(OperatorSpan& span, const ThreadState& state, const OperatorCall& call,
                      uint32_t parent_call, uint16_t nodes, uint64_t ticks) noexcept {
  span.ticks = ticks;
  span.start_ticks = call.start_ticks;
  span.sequence_number = call.sequence_number;
  span.forward_thread = call.forward_thread;
  span.call = call.call;
  span.parent_call = parent_call;
  span.name = call.name;
  span.stack = call.stack;
  span.scope = call.scope;
  span.nodes = nodes;
  span.context = state.context_of(call);
}

// There is nothing to be written of most calls, nor of those inside: the hook need not be entered.
[[gnu::always_inline]] inline bool made_nothing_but_memory(const OperatorCall& call) noexcept {
  return call.sequence_number < 0 && call.nodes_below == 0 && call.kind == ContextKind::none;
}

// Of the innermost call, in which memory changed and nothing else happened. False: not so simple,
// and nothing has been done.
[[gnu::always_inline]] inline bool write_plain_span(ThreadState& state,
                                                    OperatorCall& call) noexcept {
  const Recording* const recording = state.recording.load(std::memory_order_relaxed);
  state.busy.store(1, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst); // see HookScope
  ThreadLog* const log = state.log;
  if (g_recording.load(std::memory_order_relaxed) != recording || kClock != Clock::tsc ||
      call.call == 0 || call.context_place != 0 || log->cursor == log->end || log->flush_pending ||
      (recording->stacks && recording->stacks->has_new_roots())) [[unlikely]] {
    state.busy.store(0, std::memory_order_release);
    return false;
  }
  OperatorCall& parent = *(&call - 1);
  touch_parent(call, parent);
  fill_span(log->cursor->span, state, call, parent.call, 0, ticks_tsc());
  log->publish({state.thread, 0, kCpu, Action::operator_span});
  --state.depth;
  state.busy.store(0, std::memory_order_release);
  return true;
}

// Likewise for one that is not the innermost.
bool end_outer_operator(uintptr_t function) noexcept;

// False: no call that start_operator() was told of; nothing has been done.
[[gnu::always_inline]] inline bool end_operator(uintptr_t function) noexcept {
  ThreadState* const state = t_state;
  if (!state) [[unlikely]]
    return false;
  OperatorCall& call = state->calls[state->depth];
  if (call.function != function || call.has_callback) [[unlikely]]
    return end_outer_operator(function);
  if (made_nothing_but_memory(call) && !state->busy.load(std::memory_order_relaxed)) {
    if (!call.touched) {
      --state->depth;
      return true;
    }
    if (write_plain_span(*state, call))
      return true;
  }
  end_any_call(function); // never an optimizer's step: that is a scope of the user's
  return true;
}

} // namespace memtrace
