// Operators: a thread-local stack of running calls, kept by torch's RecordFunction callbacks.
//
// A span is written when a call ends in which something was allocated or freed. The start callback
// asks for no inputs, so torch copies nothing; what remains is torch's own slow path (40-60 ns).
#include "hook/hook.h"
#include "hook/operator_names.h"
#include "hook/python_stack.h"
#include "hook/root_scan.h"
#include "hook/thread_state.h"
#include "record/clock.h"

#include <ATen/record_function.h>
#include <memory>

namespace memtrace {

uint64_t record_function_thread() noexcept {
  return at::RecordFunction::currentThreadId();
}

namespace {

bool is_user_scope(at::RecordScope scope) noexcept {
  return scope == at::RecordScope::USER_SCOPE;
}

// A call whose end ran on another thread (asynchronous user scopes) stays behind on this one. The
// place of its RecordFunction on the C stack being used again shows that it is over.
[[gnu::noinline]] void drop_stale(ThreadState& state, const void* function) noexcept {
  for (uint32_t i = 0; i < state.depth; ++i)
    if (state.calls[i].function == function)
      state.depth = i;
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  HookScope scope;
  if (!scope)
    return nullptr;
  ThreadState& state = scope.state();
  const uint32_t depth = state.depth;
  if (depth >= ThreadState::kMaxDepth) [[unlikely]] {
    scope.recording().lose(Loss::operators_deep);
    return nullptr;
  }
  if (depth > 0 && state.calls[depth - 1].function <= &function) [[unlikely]]
    drop_stale(state, &function); // a nested call lies lower on the C stack
  const OperatorCall* parent = state.depth > 0 ? &state.calls[state.depth - 1] : nullptr;
  OperatorCall& call = state.calls[state.depth];
  const NameSlot& name = name_of(state, function, scope.recording());
  const bool user = is_user_scope(function.scope());
  call.function = &function;
  call.sequence_number = function.seqNr();
  call.forward_thread = function.forwardThreadId();
  call.call = ++state.last_call;
  call.name = name.id;
  const uint32_t outer_owner = parent ? parent->owner : 0;
  call.owner = (user || (name.factory && outer_owner != 0)) ? outer_owner : name.id;
  const uint32_t outer_top = parent ? parent->top : 0;
  call.top = (outer_top != 0 || user) ? outer_top : name.id;
  const uint32_t outer_forward = parent ? parent->outer_forward_thread : 0;
  call.outer_forward_thread =
      outer_forward != 0 ? outer_forward : static_cast<uint32_t>(call.forward_thread);
  call.scope = static_cast<uint32_t>(function.scope());
  call.stack = 0;
  call.touched = false;
  call.start_ticks = ticks_before();
  ++state.depth;
  return nullptr;
}

void write_span(HookScope& scope, const OperatorCall& call, uint32_t parent_call) noexcept {
  ThreadState& state = scope.state();
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
  state.log->publish({state.thread, 0, kCpu, Action::operator_span});
}

void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  HookScope scope;
  if (!scope)
    return;
  ThreadState& state = scope.state();
  uint32_t at = state.depth;
  while (at > 0 && state.calls[at - 1].function != &function)
    --at;
  if (at == 0) // started before this recording, too deep, or on another thread
    return;
  state.depth = at - 1;
  const OperatorCall& call = state.calls[at - 1];
  if (!call.touched || call.call == 0)
    return;
  OperatorCall* parent = at > 1 ? &state.calls[at - 2] : nullptr;
  if (parent) {
    parent->touched = true;
    // A user's scope is Python code: what was allocated in it has no one place.
    if (parent->stack == 0 && !is_user_scope(static_cast<at::RecordScope>(parent->scope)))
      parent->stack = call.stack;
  }
  write_span(scope, call, parent ? parent->call : 0);
  // No allocator lock is held here: the moment for what is not hot.
  if (state.log->flush_pending) [[unlikely]]
    scope.recording().api.flush(scope.recording().api.recorder, state.log);
  if (scope.recording().stacks)
    request_root_scan(*scope.recording().stacks);
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
