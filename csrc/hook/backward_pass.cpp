#include "hook/backward_pass.h"

#include "hook/held_tensors.h"
#include "hook/notes.h"

#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace memtrace {
namespace {

// Guards the tasks that are under way. Whoever has it waits for nothing, so a node that begins one
// is held up by no more than a look at gradients.
constinit std::mutex g_mutex;
constinit std::vector<int32_t> g_running;

std::atomic<uint64_t> g_training_thread{0}; // the first
std::atomic<bool> g_several{false};

// Ends where it is called, or else where it is destroyed.
class BackwardPass {
 public:
  BackwardPass(const Recording& recording, uint32_t thread, int32_t graph_task)
      : recording_(recording), thread_(thread), graph_task_(graph_task) {}
  ~BackwardPass() { end(); }
  BackwardPass(const BackwardPass&) = delete;
  BackwardPass& operator=(const BackwardPass&) = delete;

  void end() noexcept {
    if (ended_.exchange(true))
      return;
    {
      const HookScope scope(g_kept_recording);
      if (scope && &scope.recording() == &recording_)
        write_mark(scope, "backward_end", static_cast<uint64_t>(graph_task_), thread_);
    }
    {
      const std::lock_guard lock(g_mutex);
      std::erase(g_running, graph_task_);
    }
    if (g_recording.load(std::memory_order_relaxed) == &recording_)
      look_at_gradients();
  }

 private:
  const Recording& recording_;
  const uint32_t thread_; // that it began in
  const int32_t graph_task_;
  std::atomic<bool> ended_{false};
};

void queue(std::function<void()> callback) {
  torch::autograd::Engine::get_default_engine().queue_callback(std::move(callback));
}

} // namespace

void note_training_thread(uint64_t thread) noexcept {
  uint64_t first = g_training_thread.load(std::memory_order_relaxed);
  if (first == thread || thread == 0)
    return;
  if (first != 0 || (!g_training_thread.compare_exchange_strong(first, thread) && first != thread))
    g_several.store(true);
}

void begin_backward(const HookScope& scope, int32_t graph_task, uint64_t forward_thread) noexcept {
  scope.state().graph_task = graph_task;
  if (graph_task == kNoGraphTask)
    return;
  note_training_thread(forward_thread);
  try {
    {
      const std::lock_guard lock(g_mutex);
      if (std::ranges::find(g_running, graph_task) != g_running.end())
        return;
      g_running.push_back(graph_task);
    }
    write_mark(scope, "backward_begin", static_cast<uint64_t>(graph_task));
    auto pass = std::make_shared<BackwardPass>(scope.recording(), scope.state().thread, graph_task);
    // Queued again when it is called: behind those of DDP and FSDP, which finish the gradients.
    queue([pass] { queue([pass] { pass->end(); }); });
  } catch (...) { // no memory: one mark is missing
    scope.recording().lose(Loss::record_no_space);
  }
}

void while_no_backward(const std::function<void()>& look) {
  const std::lock_guard lock(g_mutex);
  if (g_running.empty() && !g_several.load())
    look();
}

void forget_training_threads() noexcept {
  g_training_thread.store(0);
  g_several.store(false);
}

void forget_backwards() noexcept {
  new (&g_mutex) std::mutex;
  new (&g_running) std::vector<int32_t>; // another thread may have been changing it
}

} // namespace memtrace
