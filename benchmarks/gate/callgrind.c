// Callgrind's client requests as functions, for Python: they do nothing outside of valgrind.
#include <valgrind/callgrind.h>

void count_begin(void) {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_DUMP_STATS; // what follows counts from here
}

// Writes what was counted since, under this name.
void count_end(const char* name) {
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
}
