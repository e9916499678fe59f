#include "hook/walk_gate.h"

#include <ctime>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>

namespace memtrace {
namespace {

std::atomic<WalkMark*> g_marks{nullptr}; // marks are reused, never freed
pthread_key_t g_thread_end;
bool g_prepared = false;

void give_back(void* mark) {
  t_walk_mark = nullptr; // a later destructor of this thread may walk again, with a new mark
  static_cast<WalkMark*>(mark)->used.store(false, std::memory_order_release);
}

void forget_other_threads() {
  for (WalkMark* mark = g_marks.load(); mark; mark = mark->next)
    mark->walking.store(false, std::memory_order_relaxed);
}

void pause_ms(long milliseconds) {
  const timespec time{0, milliseconds * 1'000'000};
  nanosleep(&time, nullptr);
}

} // namespace

WalkMark* make_walk_mark() noexcept {
  // Not prepared here by a local static: a fork could leave its guard held for ever in the child.
  if (!g_prepared)
    return nullptr;
  WalkMark* mark = g_marks.load(std::memory_order_acquire);
  for (; mark; mark = mark->next) {
    bool used = false;
    if (mark->used.compare_exchange_strong(used, true))
      break;
  }
  if (!mark) {
    mark = new (std::nothrow) WalkMark;
    if (!mark)
      return nullptr;
    mark->next = g_marks.load(std::memory_order_relaxed);
    while (!g_marks.compare_exchange_weak(mark->next, mark, std::memory_order_release))
      ;
  }
  mark->frozen.innermost = mark->frozen.calls;
  pthread_setspecific(g_thread_end, mark);
  return t_walk_mark = mark;
}

bool open_walks() noexcept {
  if (!g_prepared) {
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    g_prepared = pthread_key_create(&g_thread_end, give_back) == 0 &&
                 pthread_atfork(nullptr, nullptr, forget_other_threads) == 0;
  }
  if (g_prepared)
    g_walk_gate.store(WalkGate::open, std::memory_order_release);
  return g_prepared;
}

void close_walks(WalkGate to) noexcept {
  WalkMark* own = t_walk_mark ? t_walk_mark : make_walk_mark();
  g_gate_closer.store(own, std::memory_order_relaxed);
  g_walk_gate.store(to, std::memory_order_seq_cst);
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0)
    pause_ms(10); // no such call here: far longer than a store stays in a processor's buffer
  for (WalkMark* mark = g_marks.load(std::memory_order_acquire); mark; mark = mark->next)
    for (int waited_ms = 0; mark != own && mark->walking.load(std::memory_order_acquire);
         ++waited_ms) {
      if (waited_ms == 1000)
        return;
      pause_ms(1);
    }
}

} // namespace memtrace
