// The columns of every dataset that the native code fills, as in src/memtrace/schema.py (a test
// compares the two).
#pragma once

#include "analyse/columns.h"

namespace memtrace {

struct Datasets {
  Datasets();
  void discard_rows(); // of all tables

  Table events, allocations, names, segments, operators, stacks, stages, steps, samples, marks,
      timeline;
};

} // namespace memtrace
