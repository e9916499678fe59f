// Operators: a thread-local stack of running calls, kept by torch's RecordFunction callbacks.
//
// A span is written when a call ends in which something was allocated or freed. The start callback
// asks for no inputs, so torch copies nothing; what remains is torch's own slow path (40-60 ns).
#include "hook/hook.h"
#include "hook/python_stack.h"
#include "hook/root_scan.h"
#include "hook/thread_state.h"
#include "record/clock.h"

#include <ATen/record_function.h>
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>

namespace memtrace {

uint64_t record_function_thread() noexcept {
  return at::RecordFunction::currentThreadId();
}

namespace {

// Operators that only make the storage for another one: memory is said to be that one's.
constexpr std::string_view kFactories[] = {
    "aten::empty",
    "aten::empty_strided",
    "aten::empty_like",
    "aten::resize_",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::resize_as_",
    "aten::empty_permuted",
    "aten::_empty_affine_quantized",
    "aten::empty.memory_format",
};

bool is_factory(std::string_view name) noexcept {
  return std::ranges::find(kFactories, name) != std::end(kFactories);
}

// Our copies of the names, one per text: slots of all threads point to them. Never freed, and
// bounded: a program can make names without end (record_function(f"request {i}")). Guarded by a
// lock that a fork takes first: the child needs it at its first operator.
constexpr size_t kMostKeptNames = 1U << 16;
constinit std::mutex g_kept_mutex;
std::unordered_map<std::string, std::unique_ptr<std::string>>* g_kept = nullptr;

// Null: there are too many.
const char* keep_text(const char* name) {
  const std::lock_guard lock(g_kept_mutex);
  const auto found = g_kept->find(name);
  if (found != g_kept->end())
    return found->second->c_str();
  if (g_kept->size() >= kMostKeptNames)
    return nullptr;
  return g_kept->emplace(name, std::make_unique<std::string>(name)).first->second->c_str();
}

void prepare_kept_names() {
  static const bool prepared = [] {
    g_kept = new std::remove_pointer_t<decltype(g_kept)>;
    pthread_atfork([] { g_kept_mutex.lock(); }, [] { g_kept_mutex.unlock(); },
                   [] { g_kept_mutex.unlock(); });
    return true;
  }();
  (void)prepared;
}

using NameSet = NameSlot[ThreadState::kNameWays];

// Into the first place of its set; the others move on, and the last one is forgotten. A name that
// is not kept goes into the thread's spare slot, until the next one.
[[gnu::noinline]] const NameSlot& learn_name(ThreadState& state, NameSet& set, const char* name,
                                             Recording& recording) noexcept {
  const size_t size = std::strlen(name);
  const char* text = nullptr;
  try {
    text = keep_text(name);
  } catch (...) {
    recording.lose(Loss::text_no_space);
  }
  if (text)
    std::ranges::rotate(set, std::end(set) - 1);
  NameSlot& slot = text ? set[0] : state.spare_name;
  slot = {name, text, recording.api.intern(recording.api.recorder, name, size),
          is_factory({name, size})};
  return slot;
}

// Names of schema operators are stable pointers, others are not: the text is compared as well.
const NameSlot& find_name(ThreadState& state, const char* name, Recording& recording) noexcept {
  constexpr uint64_t kSpread = 0x9E3779B97F4A7C15ULL;
  const uint64_t hash = reinterpret_cast<uintptr_t>(name) * kSpread;
  NameSet& set = state.names[hash >> (64 - ThreadState::kNameSetBits)];
  for (const NameSlot& slot : set)
    if (slot.pointer == name && std::strcmp(slot.text, name) == 0) [[likely]]
      return slot;
  return learn_name(state, set, name, recording);
}

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
  const NameSlot& name = find_name(state, function.name(), scope.recording());
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
  prepare_kept_names();
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
