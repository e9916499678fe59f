// What the CUDA and the CPU hook share: turning "this was allocated / freed here" into a record.
#pragma once

#include "hook/marked_step.h"
#include "hook/python_stack.h"
#include "hook/thread_state.h"
#include "record/clock.h"

namespace memtrace {

struct AllocatorFacts {
  uint64_t ticks;
  uint64_t address;
  uint64_t size_bytes;
  uint64_t stream;
  uint32_t order;
  uint16_t pool;
  DeviceCode device;
  Action action;
};

// The innermost running call, all 0 outside of any; marks it as one in which memory changed.
inline OperatorCall& touch_call(ThreadState& state) noexcept {
  OperatorCall& call = state.calls[state.depth];
  call.touched = true;
  return call;
}

// The context that the call is in is written before the first event in it.
inline void begin_context(ThreadState& state, const OperatorCall& call,
                          const Recording& recording) noexcept {
  OperatorCall& context = state.calls[call.context_place];
  if (!context.context_is_written) [[unlikely]]
    write_context(state, context, recording);
}

inline bool wants_stack(const Recording& recording, const AllocatorFacts& facts) noexcept {
  return facts.size_bytes >= recording.stack_min_bytes &&
         (facts.action == Action::alloc || facts.action == Action::oom);
}

inline void write_event(HookScope& scope, const AllocatorFacts& facts) noexcept {
  ThreadState& state = scope.state();
  Recording& recording = scope.recording();
  // Before the record is reserved: a new stack writes its text first.
  const uint32_t stack = wants_stack(recording, facts) ? recording.stacks->take() : 0;
  if (facts.action == Action::alloc || facts.action == Action::oom)
    update_marked_step(state, recording);
  OperatorCall& call = touch_call(state);
  if (stack != 0)
    call.stack = stack; // operators are C++: the same as when the call began, but for callbacks
  if (call.context_place != 0)
    begin_context(state, call, recording);
  Record* record = state.log->reserve();
  if (!record) [[unlikely]]
    return recording.lose(Loss::event_no_space);
  AllocatorEvent& event = record->event;
  event.ticks = facts.ticks;
  event.address = facts.address;
  event.size_bytes = facts.size_bytes;
  event.stream = facts.stream;
  event.call = call.call;
  event.stack = stack;
  event.op_name = call.owner;
  event.top_name = call.top;
  event.order = facts.order;
  event.context = state.context_of(call) | (call.records_graph ? kRecordsGraph : 0);
  state.log->publish({state.thread, facts.pool, facts.device, facts.action});
}

} // namespace memtrace
