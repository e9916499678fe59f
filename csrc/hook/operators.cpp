// Operators: a thread-local stack of running calls, kept by torch's RecordFunction callbacks.
//
// A span is written when a call ends in which something was allocated or freed, or a node of
// autograd was made. The start callback asks for no inputs, so torch copies nothing; what remains
// is torch's own slow path (40-60 ns). Contexts: a node of autograd, an optimizer's step, and what
// autograd's engine calls between two nodes.
#include "hook/allocator_event.h"
#include "hook/backward_pass.h"
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

// A call whose end ran on another thread (asynchronous user scopes) stays behind on this one. The
// place of its RecordFunction on the C stack being used again shows that it is over.
[[gnu::noinline]] void drop_stale(ThreadState& state, const void* function) noexcept {
  for (uint32_t i = 0; i < state.depth; ++i)
    if (state.calls[i].function == function)
      state.depth = i;
}

// Is it the engine that calls an operator now, between two nodes? Only where a node has just ended.
bool is_engines(ThreadState& state, const OperatorCall* parent) noexcept {
  if (state.ended_node.parent_call != (parent ? parent->call : 0))
    return false;
  if (torch::autograd::get_current_graph_task_id() == state.ended_node.graph_task)
    return true;
  state.ended_node.graph_task = kNoGraphTask;
  return false;
}

// Inherited, unless the call is a context itself.
void set_context(ThreadState& state, OperatorCall& call, const OperatorCall* parent,
                 const NameSlot& name) noexcept {
  call.kind = ContextKind::none;
  const bool node = is_scope(call, at::RecordScope::BACKWARD_FUNCTION);
  if (node) {
    call.kind = ContextKind::node;
    call.graph_task = torch::autograd::get_current_graph_task_id();
  } else if (name.optimizer == OptimizerScope::step) [[unlikely]] {
    call.kind = ContextKind::optimizer;
  } else if (state.ended_node.graph_task != kNoGraphTask && is_engines(state, parent)) {
    call.kind = ContextKind::engine;
  }
  if (call.kind != ContextKind::none) {
    call.context = call.call & ~kRecordsGraph;
    call.context_place = state.depth;
    call.context_is_written = false;
  } else {
    call.context = parent ? parent->context : 0;
    call.context_place = parent ? parent->context_place : 0;
  }
  if (call.sequence_number >= 0 && !node)
    call.context |= kRecordsGraph;
}

// Whether an optimizer begins something.
OptimizerScope start_call(const at::RecordFunction& function) {
  HookScope scope;
  if (!scope)
    return OptimizerScope::none;
  ThreadState& state = scope.state();
  const uint32_t depth = state.depth;
  if (depth >= ThreadState::kMaxDepth) [[unlikely]] {
    scope.recording().lose(Loss::operators_deep);
    return OptimizerScope::none;
  }
  if (depth > 0 && state.calls[depth - 1].function <= &function) [[unlikely]]
    drop_stale(state, &function); // a nested call lies lower on the C stack
  const OperatorCall* parent = state.depth > 0 ? &state.calls[state.depth - 1] : nullptr;
  OperatorCall& call = state.calls[state.depth];
  const NameSlot& name = name_of(state, function, scope.recording());
  const bool user = function.scope() == at::RecordScope::USER_SCOPE;
  call.function = &function;
  call.sequence_number = function.seqNr();
  call.forward_thread = function.forwardThreadId();
  call.call = ++state.last_call;
  call.name = name.id;
  const uint32_t outer_owner = parent ? parent->owner : 0;
  call.owner = (user || (name.factory && outer_owner != 0)) ? outer_owner : name.id;
  const uint32_t outer_top = parent ? parent->top : 0;
  call.top = (outer_top != 0 || user) ? outer_top : name.id;
  call.scope = static_cast<uint8_t>(function.scope());
  call.stack = 0;
  call.nodes_below = 0;
  call.has_schema = name.schema_generation != 0;
  call.touched = false;
  call.start_ticks = ticks_before();
  set_context(state, call, parent, name);
  ++state.depth;
  if (call.kind == ContextKind::node && call.graph_task != state.graph_task) [[unlikely]]
    begin_backward(scope, call.graph_task, call.forward_thread);
  if (call.kind == ContextKind::optimizer) [[unlikely]]
    write_mark(scope, "optimizer_begin");
  return name.optimizer;
}

void write_span(HookScope& scope, const OperatorCall& call, uint32_t parent_call,
                uint32_t nodes) noexcept {
  ThreadState& state = scope.state();
  if (call.context & ~kRecordsGraph)
    begin_context(state, call, scope.recording());
  Record* record = state.log->reserve();
  if (!record) [[unlikely]]
    return scope.recording().lose(Loss::record_no_space);
  OperatorSpan& span = record->span;
  span.ticks = ticks_before();
  span.start_ticks = call.start_ticks;
  span.sequence_number = call.sequence_number;
  span.forward_thread = call.forward_thread;
  span.call = call.call;
  span.parent_call = parent_call;
  span.name = call.name;
  span.stack = call.stack;
  span.scope = call.scope;
  span.nodes = static_cast<uint16_t>(std::min<uint32_t>(nodes, UINT16_MAX));
  span.context = call.context & ~kRecordsGraph;
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

void end_context(HookScope& scope, const OperatorCall& call, uint32_t parent_call) noexcept {
  if (call.kind == ContextKind::node)
    scope.state().ended_node = {call.sequence_number, call.forward_thread, parent_call,
                                call.graph_task};
  else if (call.kind == ContextKind::optimizer)
    write_mark(scope, "optimizer_end");
}

// True: a step of an optimizer has ended.
bool end_call(const at::RecordFunction& function) noexcept {
  HookScope scope;
  if (!scope)
    return false;
  ThreadState& state = scope.state();
  uint32_t at = state.depth;
  while (at > 0 && state.calls[at - 1].function != &function)
    --at;
  if (at == 0) // started before this recording, too deep, or on another thread
    return false;
  state.depth = at - 1;
  OperatorCall& call = state.calls[at - 1];
  if (call.call == 0)
    return false;
  OperatorCall* parent = at > 1 ? &state.calls[at - 2] : nullptr;
  const uint32_t parent_call = parent ? parent->call : 0;
  const uint32_t nodes = nodes_made(call);
  const bool owns_nodes = nodes > call.nodes_below;
  if (owns_nodes)
    take_stack(scope.recording(), call);
  if (parent) {
    parent->nodes_below += nodes;
    if (call.touched) {
      parent->touched = true;
      // A user's scope is Python code: what was allocated in it has no one place.
      if (parent->stack == 0 && !is_scope(*parent, at::RecordScope::USER_SCOPE))
        parent->stack = call.stack;
    }
  }
  if (call.kind != ContextKind::none)
    end_context(scope, call, parent_call);
  const bool optimizer = call.kind == ContextKind::optimizer;
  if (!call.touched && !owns_nodes)
    return optimizer;
  write_span(scope, call, parent_call, owns_nodes ? nodes : 0);
  // No allocator lock is held here: the moment for what is not hot.
  flush_full_window(scope);
  if (scope.recording().stacks)
    request_root_scan(*scope.recording().stacks);
  return optimizer;
}

// What an optimizer holds is looked at outside of the hook: that waits for the GIL.
std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  switch (start_call(function)) {
  [[likely]] case OptimizerScope::none:
    break;
  case OptimizerScope::step:
    before_optimizer_step();
    break;
  case OptimizerScope::zero_grad:
    before_zero_grad();
  }
  return nullptr;
}

void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  if (end_call(function)) [[unlikely]]
    after_optimizer_step();
}

at::CallbackHandle g_callback = at::INVALID_CALLBACK_HANDLE;

} // namespace

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
}

void remove_operators() {
  if (g_callback == at::INVALID_CALLBACK_HANDLE)
    return;
  at::removeCallback(g_callback);
  g_callback = at::INVALID_CALLBACK_HANDLE;
}

} // namespace memtrace
