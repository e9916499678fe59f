// The clock of a recording: the cheapest counter that orders events across threads.
//
// x86-64 with an invariant TSC: the counter itself (8 ns); everywhere else CLOCK_MONOTONIC (20 ns).
// Ticks are turned into nanoseconds after the run, through (ticks, monotonic) anchors.
#pragma once

#include "record/spool.h"

#include <cstdint>
#include <ctime>
#ifdef __x86_64__
#include <cpuid.h>
#include <x86intrin.h>
#endif

namespace memtrace {

inline uint64_t clock_ns(clockid_t clock) noexcept {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000ULL + static_cast<uint64_t>(now.tv_nsec);
}

inline Clock detect_clock() noexcept {
#ifdef __x86_64__
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kInvariantTsc = 1U << 8;
  if (__get_cpuid(0x80000007U, &a, &b, &c, &d) && (d & kInvariantTsc))
    return Clock::tsc;
#endif
  return Clock::monotonic_ns;
}

inline const Clock kClock = detect_clock();

// Only where kClock is Clock::tsc.
inline uint64_t ticks_tsc() noexcept {
#ifdef __x86_64__
  return __rdtsc();
#else
  return 0;
#endif
}

// Before a free: nothing after it may be seen by others before the counter was read, which holds
// because the free's own stores retire later.
inline uint64_t ticks_before() noexcept {
  return kClock == Clock::tsc ? ticks_tsc() : clock_ns(CLOCK_MONOTONIC);
}

// After an allocation: rdtscp waits for the loads before it. A plain rdtsc may run ahead of the
// lock that handed the address over from another thread, and the alloc would seem older than the
// free that made it possible.
inline uint64_t ticks_after() noexcept {
#ifdef __x86_64__
  if (kClock == Clock::tsc) [[likely]] {
    unsigned cpu = 0;
    return __rdtscp(&cpu);
  }
#endif
  return clock_ns(CLOCK_MONOTONIC);
}

inline ClockAnchor clock_anchor() noexcept {
  // The reading with the least time around it, so that a preemption in between does not count.
  ClockAnchor best{};
  uint64_t best_gap = UINT64_MAX;
  for (int i = 0; i < 3; ++i) {
    const uint64_t before = ticks_after();
    const uint64_t ns = clock_ns(CLOCK_MONOTONIC);
    const uint64_t gap = ticks_after() - before;
    if (gap < best_gap) {
      best_gap = gap;
      best = {before + gap / 2, ns};
    }
  }
  return best;
}

} // namespace memtrace
