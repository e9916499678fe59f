// Operators: a thread-local stack of running calls, kept by torch's RecordFunction callbacks.
//
// A span is written when a call ends in which something was allocated or freed, or a node of
// autograd was made. The start callback asks for no inputs, so torch copies nothing; what remains
// is torch's own slow path (40-60 ns), of which dispatcher_shortcut.h leaves out a part. Contexts:
// a node of autograd, an optimizer's step, and what autograd's engine calls between two nodes.
#include "hook/operators.h"

#include "hook/allocator_event.h"
#include "hook/backward_pass.h"
#include "hook/dispatcher_shortcut.h"
#include "hook/hook.h"
#include "hook/notes.h"
#include "hook/operator_names.h"
#include "hook/optimizer_step.h"
#include "hook/python_stack.h"
#include "hook/root_scan.h"
#include "hook/thread_state.h"
#include "record/clock.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <memory>

namespace memtrace {

uint64_t record_function_thread() noexcept {
  return at::RecordFunction::currentThreadId();
}

namespace {

bool is_scope(const OperatorCall& call, at::RecordScope scope) noexcept {
  return call.scope == static_cast<uint8_t>(scope);
}

uintptr_t address_of(const at::RecordFunction& function) noexcept {
  return reinterpret_cast<uintptr_t>(&function);
}

BegunCall begun_call(const at::RecordFunction& function) noexcept {
  return {address_of(function),
          &function,
          function.name(),
          function.seqNr(),
          static_cast<uint32_t>(function.forwardThreadId()),
          function.scope()};
}

// A call whose end ran on another thread (asynchronous user scopes) stays behind on this one. The
// place of its RecordFunction on the C stack being used again shows that it is over.
[[gnu::noinline]] void drop_stale(ThreadState& state, uintptr_t function) noexcept {
  for (uint32_t i = 1; i <= state.depth; ++i)
    if (state.calls[i].function == function)
      state.depth = i - 1;
}

// ---- a call begins ------------------------------------------------------------------------------

// Any call, in any state of the thread.
[[gnu::noinline]] bool start_any_call(const BegunCall& begun) noexcept {
  const HookScope scope;
  if (!scope)
    return false;
  ThreadState& state = scope.state();
  if (state.depth >= ThreadState::kMaxDepth) {
    scope.recording().lose(Loss::operators_deep);
    return false;
  }
  if (state.calls[state.depth].function <= begun.function)
    drop_stale(state, begun.function); // a nested call lies lower on the C stack
  const NameSlot& name = name_of(state, begun, scope.recording());
  if (name.factory && takes_in_factories(state.calls[state.depth], begun.sequence_number >= 0))
    return false;
  return push_call(state, begun, state.calls[state.depth], name, ticks_before);
}

// Is it the engine that calls an operator now, between two nodes? Only where a node has just ended.
bool is_engines(ThreadState& state, const OperatorCall& parent) noexcept {
  if (state.ended_node.parent_call != parent.call)
    return false;
  const int32_t graph_task = torch::autograd::get_current_graph_task_id();
  if (graph_task != kNoGraphTask && graph_task == state.ended_node.graph_task)
    return true; // a node that the program calls itself is in no task
  state.ended_node.parent_call = kNoCall;
  return false;
}

// Whether an optimizer begins something.
[[gnu::noinline]] OptimizerScope begin_context_call(const BegunCall& begun) {
  const HookScope scope;
  if (!scope)
    return OptimizerScope::none;
  ThreadState& state = scope.state();
  OperatorCall& call = state.calls[state.depth];
  if (call.function != begun.function) // another recording has begun
    return OptimizerScope::none;
  const OptimizerScope optimizer = is_scope(call, at::RecordScope::USER_SCOPE)
                                       ? name_of(state, begun, scope.recording()).optimizer
                                       : OptimizerScope::none;
  if (is_scope(call, at::RecordScope::BACKWARD_FUNCTION)) {
    call.kind = ContextKind::node;
    call.graph_task = torch::autograd::get_current_graph_task_id();
  } else if (optimizer == OptimizerScope::step) {
    call.kind = ContextKind::optimizer;
  } else if (is_engines(state, state.calls[state.depth - 1])) {
    call.kind = ContextKind::engine;
  } else {
    return optimizer;
  }
  call.context_place = static_cast<uint8_t>(state.depth);
  call.records_graph = call.sequence_number >= 0 && call.kind != ContextKind::node;
  if (call.kind == ContextKind::node && call.graph_task != state.graph_task)
    begin_backward(scope, call.graph_task, call.forward_thread);
  if (call.kind == ContextKind::optimizer)
    write_mark(scope, "optimizer_begin");
  return optimizer;
}

// ---- a call ends --------------------------------------------------------------------------------

void write_span(ThreadState& state, const Recording& recording, const OperatorCall& call,
                uint32_t parent_call, uint32_t nodes) noexcept {
  if (call.context_place != 0)
    begin_context(state, call, recording);
  Record* record = state.log->reserve();
  if (!record) [[unlikely]]
    return recording.lose(Loss::record_no_space);
  fill_span(record->span, state, call, parent_call,
            static_cast<uint16_t>(std::min<uint32_t>(nodes, UINT16_MAX)), ticks_before());
  state.log->publish({state.thread, 0, kCpu, Action::operator_span});
}

// Nodes of autograd that were made since the call began.
uint32_t nodes_made(const OperatorCall& call) noexcept {
  if (call.sequence_number < 0 || call.kind == ContextKind::node)
    return call.nodes_below;
  return static_cast<uint32_t>(at::sequence_number::peek() -
                               static_cast<uint64_t>(call.sequence_number));
}

// The stack of a call that made a node: what the node's backward is said to belong to.
void take_stack(const Recording& recording, OperatorCall& call) noexcept {
  // An operator of the dispatcher was called from where memory changed in it.
  if (recording.stacks && (call.stack == 0 || !call.has_schema))
    call.stack = recording.stacks->take();
}

// False: it began before this recording, was too deep, or ended on another thread.
[[gnu::noinline]] bool leave_inner_calls(ThreadState& state, uintptr_t function) noexcept {
  for (uint32_t at = state.depth; at > 0; --at) {
    if (state.calls[at].function == function) {
      state.depth = at;
      return true;
    }
  }
  return false;
}

// A call in which memory changed, or that made `nodes` nodes of its own.
void record_call(const HookScope& scope, OperatorCall& call, uint32_t nodes) {
  ThreadState& state = scope.state();
  OperatorCall& parent = *(&call - 1);
  const Recording& recording = scope.recording();
  if (nodes != 0)
    take_stack(recording, call);
  if (call.touched)
    touch_parent(call, parent);
  write_span(state, recording, call, parent.call, nodes);
  // No allocator lock is held here: the moment for what is not hot.
  flush_full_window(state, recording);
  if (recording.stacks && recording.stacks->has_new_roots()) [[unlikely]]
    request_root_scan();
}

[[gnu::noinline]] void end_optimizer_step() noexcept {
  if (const HookScope scope; scope)
    write_mark(scope, "optimizer_end");
  after_optimizer_step();
}

// ---- callbacks ----------------------------------------------------------------------------------

// What an optimizer holds is looked at outside of the hook: that waits for the GIL.
[[gnu::noinline]] void begin_rare_call(const BegunCall& begun) {
  switch (begin_context_call(begun)) {
  case OptimizerScope::none:
    break;
  case OptimizerScope::step:
    before_optimizer_step();
    break;
  case OptimizerScope::zero_grad:
    before_zero_grad();
  }
}

// What is left of a call's beginning.
void go_on(Begin begin, const BegunCall& begun) {
  if (begin == Begin::may_be_context || start_any_call(begun)) [[unlikely]]
    begin_rare_call(begun);
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  const BegunCall begun = begun_call(function);
  const Begin begin = push_known_call(begun);
  if (begin != Begin::done) [[unlikely]]
    go_on(begin, begun);
  return nullptr;
}

void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  ThreadState* const state = t_state;
  if (state && !state->busy.load(std::memory_order_relaxed)) [[likely]] {
    const OperatorCall& call = state->calls[state->depth];
    if (call.function == address_of(function) && !call.touched && made_nothing_but_memory(call)) {
      --state->depth;
      return;
    }
  }
  if (end_any_call(address_of(function)) == ContextKind::optimizer) [[unlikely]]
    end_optimizer_step();
}

at::CallbackHandle g_callback = at::INVALID_CALLBACK_HANDLE;

} // namespace

ContextKind end_any_call(uintptr_t function) noexcept {
  const HookScope scope;
  if (!scope)
    return ContextKind::none;
  ThreadState& state = scope.state();
  if (state.calls[state.depth].function != function && !leave_inner_calls(state, function))
    return ContextKind::none;
  OperatorCall& call = state.calls[state.depth--];
  OperatorCall& parent = *(&call - 1);
  if (call.call == 0) // began before this recording
    return ContextKind::none;
  const uint32_t nodes = nodes_made(call);
  const bool owns_nodes = nodes > call.nodes_below;
  parent.nodes_below += nodes;
  if (call.kind == ContextKind::node)
    state.ended_node = {call.sequence_number, call.forward_thread, parent.call, call.graph_task};
  if (call.touched || owns_nodes)
    record_call(scope, call, owns_nodes ? nodes : 0);
  return call.kind;
}

void go_on_with_operator(Begin begin, uintptr_t function, const char* name,
                         int64_t sequence_number) noexcept {
  go_on(begin, begun_operator(function, name, sequence_number)); // autograd's engine's: but a note
}

bool end_outer_operator(uintptr_t function) noexcept {
  const ThreadState& state = *t_state;
  uint32_t at = state.depth;
  while (at > 0 && state.calls[at].function != function)
    --at;
  if (at == 0 || state.calls[at].has_callback)
    return false;
  end_any_call(function);
  return true;
}

void install_operators() {
  if (g_callback != at::INVALID_CALLBACK_HANDLE)
    return;
  prepare_operator_names();
  auto callback = at::RecordFunctionCallback(&on_start, &on_end);
  callback.needsInputs(false).needsOutputs(false).needsIds(false);
  callback.scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION,
                   at::RecordScope::TORCHSCRIPT_FUNCTION, at::RecordScope::CUSTOM_CLASS,
                   at::RecordScope::USER_SCOPE});
  g_callback = at::addGlobalCallback(callback);
  install_dispatcher_shortcut(&on_start);
}

void remove_operators() {
  if (g_callback == at::INVALID_CALLBACK_HANDLE)
    return;
  remove_dispatcher_shortcut();
  at::removeCallback(g_callback);
  g_callback = at::INVALID_CALLBACK_HANDLE;
}

} // namespace memtrace
