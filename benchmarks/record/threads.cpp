// What each thread of threads.py runs: an operator that allocates, and the free of what it gave.
// Called without the GIL, which would let one thread at a time run and be fought for at each call.
#include <ATen/ops/empty.h>

#include <ctime>

namespace {

double thread_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

} // namespace

// Thread CPU time of `calls` operators, each with an allocation and its free.
extern "C" double allocate_and_free_ns(long calls) {
  const double start = thread_cpu_ns();
  for (long call = 0; call < calls; ++call)
    at::empty({64});
  return thread_cpu_ns() - start;
}
