// When a thread may read its own Python frames.
//
// Py_FinalizeEx frees the thread states of all threads but its own, while those may be in C without
// the GIL, in the middle of a walk. So before that (from atexit) all other threads are kept out,
// and the closing thread waits until none is inside. A forked child starts with nobody inside.
#pragma once

#include "hook/frozen_frames.h"

#include <atomic>
#include <cstdint>

namespace memtrace {

struct WalkMark {
  std::atomic<bool> walking{false};
  std::atomic<bool> used{true};
  WalkMark* next = nullptr;
  FrozenFrames frozen; // the thread's own
};

enum class WalkGate : uint32_t { shut, closer_only, open };
inline std::atomic<WalkGate> g_walk_gate{WalkGate::shut};
inline std::atomic<const WalkMark*> g_gate_closer{nullptr};
inline __attribute__((tls_model("initial-exec"))) thread_local WalkMark* t_walk_mark = nullptr;

// Gives this thread a mark, which goes back when the thread ends; null: no memory.
WalkMark* make_walk_mark() noexcept;

class WalkScope {
 public:
  WalkScope() noexcept {
    WalkMark* mark = t_walk_mark;
    if (!mark) [[unlikely]] {
      mark = make_walk_mark();
      if (!mark)
        return;
    }
    mark->walking.store(true, std::memory_order_relaxed);
    // The compiler keeps this order; between threads membarrier() in close_walks() makes it so.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    const WalkGate gate = g_walk_gate.load(std::memory_order_acquire);
    if (gate != WalkGate::open) [[unlikely]] {
      if (gate == WalkGate::shut || mark != g_gate_closer.load(std::memory_order_relaxed)) {
        mark->walking.store(false, std::memory_order_release);
        return;
      }
    }
    mark_ = mark;
  }
  ~WalkScope() {
    if (mark_)
      mark_->walking.store(false, std::memory_order_release);
  }
  WalkScope(const WalkScope&) = delete;
  WalkScope& operator=(const WalkScope&) = delete;

  explicit operator bool() const noexcept { return mark_ != nullptr; }
  FrozenFrames& frozen() const noexcept { return mark_->frozen; }

 private:
  WalkMark* mark_ = nullptr;
};

// Under the GIL. False: the system has no thread keys left.
bool open_walks() noexcept;
// Keeps all threads out, or all but the calling one, and waits until nobody else is inside; at most
// a second, after which a thread that was stopped in the middle of its walk is left to its fate.
void close_walks(WalkGate to) noexcept;

} // namespace memtrace
