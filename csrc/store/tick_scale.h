// Ticks of a recording's clock -> nanoseconds since its origin.
//
// Piecewise linear through anchors; beyond the last anchor the last slope goes on. Monotone for any
// input, also for anchors that contradict each other (such anchors are dropped).
#pragma once

#include "record/spool.h"

#include <cstddef>
#include <vector>

namespace memtrace {

class TickScale {
 public:
  // `anchors` in any order; the first of `anchors` is the origin.
  TickScale(Clock clock, std::vector<ClockAnchor> anchors);

  // One that was taken later; what was asked about times before the others stays as it was.
  void add(const ClockAnchor& anchor);

  // Fast when called with nearly rising ticks, as a merge does. Never negative.
  int64_t ns(uint64_t ticks) const;

 private:
  struct Piece {
    uint64_t ticks;
    int64_t ns;
    double ns_per_tick;
  };
  Clock clock_;
  uint64_t origin_ns_;
  std::vector<Piece> pieces_;
  mutable size_t last_ = 0;
};

} // namespace memtrace
