// What the hooks keep per thread: its log, its running operators, a cache of operator names.
//
// Owner: the thread. A state is made at the thread's first event and freed when the thread ends,
// after its C++ thread_local destructors (a pthread key), since those still free tensors.
// `busy` is the one field that another thread reads: stop() waits until nobody is inside a hook.
#pragma once

#include "record/event.h"
#include "record/recorder_api.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace memtrace {

class StackTable;

// One recording, as the hooks see it. Lives until the process ends: a hook that is under way while
// the recording stops may still look at it, and its address is its identity.
struct Recording {
  RecorderApi api{};
  StackTable* stacks = nullptr;          // null: stacks are not taken
  uint64_t stack_min_bytes = UINT64_MAX; // allocations below this get no stack

  void lose(Loss kind) const noexcept { api.lose(api.recorder, kind, 1); }
};

// The recording that is on, or null: none is, or it is paused. The gate of every hook.
inline std::atomic<Recording*> g_recording{nullptr};
// Likewise, but for a pause: the gate of what is recorded in one as well, which is the end of
// memory and what is rare (pause.h).
inline std::atomic<Recording*> g_kept_recording{nullptr};
// What a thread belongs to before its first event: no recording has this address, nor is it null.
inline Recording g_no_recording{};

// A cache line: written at every start, read at every end.
struct alignas(64) OperatorCall {
  uintptr_t function; // address of the at::RecordFunction, to match its end with its start
  uint64_t start_ticks;
  int64_t sequence_number;
  uint32_t forward_thread; // of the forward call that this is the backward of; 0: none
  uint32_t call;
  uint32_t name;           // text id
  uint32_t owner;          // text id: innermost operator that is not a factory, seen from here
  uint32_t top;            // text id: outermost operator
  uint32_t stack;          // of an allocation made in it; 0: none was, or its stack was not taken
  uint32_t nodes_below;    // nodes of autograd that calls inside it made
  int32_t graph_task;      // of a node
  uint8_t context_place;   // of the context that it is in, or is, in ThreadState::calls; 0: none
  bool records_graph;      // autograd's, it or a call around it in the same context
  ContextKind kind;        // of a call that is a context itself
  uint8_t scope;           // at::RecordScope
  bool has_schema;         // an operator of the dispatcher: no Python frame comes in between
  bool touched;            // something was allocated or freed in it
  bool context_is_written; // of a call that is a context itself: its ContextBegin
  bool has_callback;       // RecordFunction's tells of its end
};
static_assert(sizeof(OperatorCall) == 64);

// The node of autograd that ended last on a thread. Until its graph task is over, operators in the
// same place are the engine's, which adds up what nodes gave.
struct EndedNode {
  int64_t sequence_number;
  uint32_t forward_thread;
  uint32_t parent_call; // kNoCall: none ended, or its task is over
  int32_t graph_task;
};
constexpr uint32_t kNoCall = UINT32_MAX;
constexpr int32_t kNoGraphTask = -1;

// What torch.optim.Optimizer calls its own scopes.
enum class OptimizerScope : uint8_t { none, step, zero_grad };

// Of a cache of names with several places for each hash: two names that met in one place would push
// each other out at every call.
struct NameSlot {
  const char* pointer; // of a schema's name
  const char* text;    // of any other: our copy
  uint32_t id;
  uint32_t schema_generation; // g_schema_generation when it was learnt; 0: no schema's
  bool factory;
  OptimizerScope optimizer; // that it is the name of
};
constexpr uint32_t kNameWays = 4;
using NameSet = NameSlot[kNameWays];

struct ThreadState {
  static constexpr uint32_t kMaxDepth = 128; // OperatorCall::context_place counts so far
  static constexpr uint32_t kNameSetBits = 6;

  alignas(8) std::atomic<uint32_t> busy{0}; // 1: inside a hook
  uint32_t depth = 0;                       // running operators, at most kMaxDepth
  ThreadLog* log = nullptr;
  // That the calls and the step belong to; a pause takes it away, from another thread. That log,
  // thread and names belong to is log_recording.
  std::atomic<const Recording*> recording{&g_no_recording};
  const Recording* log_recording = &g_no_recording;
  uint32_t thread = 0; // id in text.log
  uint32_t last_call = 0;
  EndedNode ended_node{-1, 0, kNoCall, kNoGraphTask};
  // The innermost one is calls[depth]. The first stands for none, so that each has one around it.
  OperatorCall calls[kMaxDepth + 1];
  NameSet names[1U << kNameSetBits]; // with a schema, by pointer
  NameSet texts[1U << kNameSetBits]; // without, by text
  NameSlot spare_name;               // of a name that is not kept
  int32_t graph_task = kNoGraphTask; // the last one that this thread ran a node of
  // What the log says last of the marked step that the thread is in (0: none), and when that was
  // found out (marked_step.h).
  uint32_t marked_step = 0;
  uint64_t step_changes = 0, context_version = 0;
  ThreadState* next = nullptr; // list of all states, for stop()

  // What events in the call say of its context: AllocatorEvent::context without kRecordsGraph.
  uint32_t context_of(const OperatorCall& call) const noexcept {
    return calls[call.context_place].call & ~kRecordsGraph;
  }

  // Not inside a hook and in no operator, in one load.
  bool is_idle() const noexcept {
    uint64_t both = 0;
    std::memcpy(&both, this, sizeof both);
    return both == 0;
  }
};
static_assert(offsetof(ThreadState, busy) == 0 && offsetof(ThreadState, depth) == 4);

inline __attribute__((tls_model("initial-exec"))) thread_local ThreadState* t_state = nullptr;

// Just before the first event of a context: what it is.
void write_context(ThreadState& state, OperatorCall& context, const Recording& recording) noexcept;

// RecordFunction's number of this thread; defined with the operator hook, which alone knows it.
uint64_t record_function_thread() noexcept;

// Makes this thread's state, or null when there is no memory.
ThreadState* make_thread_state() noexcept;
// Gives the thread a log of this recording, unless it has one, and forgets the names of an earlier
// one and the running calls: they began before it, or before its pause.
bool join_recording(ThreadState* state, Recording* recording) noexcept;
// Turns the gates off and waits until no thread is inside a hook; false: one still was after 100
// ms, or this one is.
bool quiesce() noexcept;
// Likewise, but keeps the gate of a pause open. Every thread joins the recording again.
bool quiesce_for_pause() noexcept;
// In a forked child: off, and nothing of the parent's is used any more.
void forget_in_child() noexcept;

// Entry of every hook: holds the recording and the thread's state, or is false when nothing records
// or when we are already inside a hook on this thread (the recorder's own work is not recorded).
// The gate is g_kept_recording for what a pause does not leave out.
class HookScope {
 public:
  explicit HookScope(const std::atomic<Recording*>& gate = g_recording) noexcept {
    ThreadState* state = t_state;
    if (!state) [[unlikely]] {
      if (gate.load(std::memory_order_relaxed))
        state = make_thread_state();
      if (!state)
        return;
    }
    if (state->busy.load(std::memory_order_relaxed))
      return;
    state->busy.store(1, std::memory_order_relaxed);
    // The compiler keeps this order; between threads membarrier() in quiesce() makes it so.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    Recording* recording = gate.load(std::memory_order_relaxed);
    if (state->recording.load(std::memory_order_relaxed) != recording &&
        (!recording || !join_recording(state, recording))) [[unlikely]] {
      state->busy.store(0, std::memory_order_release);
      return;
    }
    state_ = state;
    recording_ = recording;
  }
  ~HookScope() {
    if (state_)
      state_->busy.store(0, std::memory_order_release);
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;

  explicit operator bool() const noexcept { return state_ != nullptr; }
  ThreadState& state() const noexcept { return *state_; }
  Recording& recording() const noexcept { return *recording_; }

 private:
  ThreadState* state_ = nullptr;
  Recording* recording_ = nullptr;
};

} // namespace memtrace
