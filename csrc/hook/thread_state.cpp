#include "hook/thread_state.h"

#include "hook/backward_pass.h"
#include "hook/root_scan.h"
#include "record/clock.h"

#include <linux/membarrier.h>
#include <mutex>
#include <new>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <type_traits>
#include <unistd.h>

namespace memtrace {

namespace {

constinit std::mutex g_states_mutex;
// Threads end after static destructors, and a forked child begins the mutex anew.
static_assert(std::is_trivially_destructible_v<std::mutex>);
ThreadState* g_states = nullptr;
pthread_key_t g_key;
pthread_once_t g_key_once = PTHREAD_ONCE_INIT;

// Of a thread that forked: a hook that it was in goes on in the child, and has no place there.
ThreadLog g_no_log{.refill = [](ThreadLog*) noexcept { return false; }};

// Runs at the thread's end, after its thread_local destructors. If one of those of another key
// still frees a tensor later, a new state is made and this runs again.
void end_thread(void* pointer) {
  auto* state = static_cast<ThreadState*>(pointer);
  t_state = nullptr;
  std::lock_guard lock(g_states_mutex);
  Recording* recording = g_kept_recording.load(std::memory_order_relaxed);
  if (state->log && recording && recording == state->log_recording)
    recording->api.release_log(recording->api.recorder, state->log);
  for (ThreadState** at = &g_states; *at; at = &(*at)->next) {
    if (*at == state) {
      *at = state->next;
      break;
    }
  }
  delete state;
}

} // namespace

ThreadState* make_thread_state() noexcept {
  pthread_once(&g_key_once, [] { pthread_key_create(&g_key, end_thread); });
  auto* state = new (std::nothrow) ThreadState{};
  if (!state)
    return nullptr;
  state->calls[0].function = UINTPTR_MAX; // above all on the C stack
  {
    std::lock_guard lock(g_states_mutex);
    state->next = g_states;
    g_states = state;
  }
  pthread_setspecific(g_key, state);
  t_state = state;
  return state;
}

namespace {

bool take_log(ThreadState* state, Recording* recording) noexcept {
  const RecorderApi& api = recording->api;
  state->log = api.acquire_log(api.recorder);
  if (!state->log) {
    recording->lose(Loss::event_no_space);
    return false;
  }
  std::memset(state->names, 0, sizeof state->names);
  std::memset(state->texts, 0, sizeof state->texts);
  state->thread = api.next_id(api.recorder, TextKind::thread);
  const ThreadText text{static_cast<uint64_t>(syscall(SYS_gettid)), record_function_thread()};
  api.text(api.recorder, TextKind::thread, state->thread, &text, sizeof text);
  state->marked_step = 0;
  state->log_recording = recording;
  return true;
}

} // namespace

bool join_recording(ThreadState* state, Recording* recording) noexcept {
  if (state->log_recording != recording && !take_log(state, recording))
    return false;
  // Running calls may have names of another text.log, and may be over: their ends were not seen.
  state->depth = 0;
  OperatorCall& none = state->calls[0];
  none.name = none.owner = none.top = none.stack = none.call = 0;
  none.touched = none.records_graph = false;
  state->ended_node.parent_call = kNoCall;
  state->graph_task = kNoGraphTask;
  state->step_changes = 0;
  state->recording.store(recording, std::memory_order_relaxed);
  return true;
}

void write_context(ThreadState& state, OperatorCall& context, const Recording& recording) noexcept {
  Record* record = state.log->reserve();
  if (!record)
    return recording.lose(Loss::record_no_space);
  // The engine's work is that of the node before it.
  const bool engine = context.kind == ContextKind::engine;
  const EndedNode& node = state.ended_node;
  ContextBegin& begin = record->context = {};
  begin.ticks = ticks_before();
  begin.sequence_number = engine ? node.sequence_number : context.sequence_number;
  begin.forward_thread = engine ? node.forward_thread : context.forward_thread;
  begin.call = context.call & ~kRecordsGraph;
  begin.kind = context.kind;
  context.context_is_written = true;
  state.log->publish({state.thread, 0, kCpu, Action::context_begin});
}

namespace {

// Until every hook that a closed gate still let in is over.
bool wait_for_hooks() noexcept {
  // Makes every running thread pass a barrier, so that a hook either sees the gate closed or its
  // busy flag is seen here; this spares the hooks a fence on each event.
  static const bool registered =
      syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
  if (!registered || syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0)
    syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
  for (int tries = 0; tries < 1000; ++tries) {
    bool anyone = false;
    {
      std::lock_guard lock(g_states_mutex);
      for (ThreadState* state = g_states; state; state = state->next)
        anyone |= state != t_state && state->busy.load(std::memory_order_acquire) != 0;
    }
    if (!anyone)
      return t_state == nullptr || t_state->busy.load(std::memory_order_relaxed) == 0;
    usleep(100);
  }
  return false;
}

} // namespace

bool quiesce() noexcept {
  g_recording.store(nullptr, std::memory_order_seq_cst);
  g_kept_recording.store(nullptr, std::memory_order_seq_cst);
  return wait_for_hooks();
}

bool quiesce_for_pause() noexcept {
  g_recording.store(nullptr, std::memory_order_seq_cst);
  const bool quiet = wait_for_hooks();
  std::lock_guard lock(g_states_mutex);
  for (ThreadState* state = g_states; state; state = state->next)
    state->recording.store(&g_no_recording, std::memory_order_relaxed);
  return quiet;
}

void forget_in_child() noexcept {
  forget_root_scan();
  forget_backwards();
  g_recording.store(nullptr, std::memory_order_relaxed);
  g_kept_recording.store(nullptr, std::memory_order_relaxed);
  // Only this thread is here; the others' states, and a mutex one of them may hold, are left
  // behind.
  new (&g_states_mutex) std::mutex;
  g_states = t_state;
  if (t_state) {
    t_state->next = nullptr;
    t_state->log = &g_no_log;
    t_state->recording = t_state->log_recording = &g_no_recording;
    t_state->busy.store(0, std::memory_order_relaxed);
  }
}

} // namespace memtrace
