#include "store/tick_scale.h"

#include <algorithm>

namespace memtrace {
namespace {

// Two anchors nearer than this say little about the clock's rate: reading one takes some 50 ns.
constexpr int64_t kLeastSpanNs = 20'000;
constexpr double kMostNsPerTick = 1000;
constexpr int64_t kEndOfTimeNs = INT64_C(1) << 61;

} // namespace

TickScale::TickScale(Clock clock, std::vector<ClockAnchor> anchors) : clock_(clock) {
  const ClockAnchor origin = anchors.empty() ? ClockAnchor{0, 0} : anchors.front();
  origin_ns_ = origin.monotonic_ns;
  pieces_.push_back({origin.ticks, 0, 1.0});
  std::ranges::sort(anchors, {}, &ClockAnchor::ticks);
  for (const ClockAnchor& anchor : anchors)
    add(anchor);
}

void TickScale::add(const ClockAnchor& anchor) {
  Piece& last = pieces_.back();
  if (clock_ == Clock::monotonic_ns || anchor.ticks <= last.ticks ||
      anchor.monotonic_ns < origin_ns_)
    return; // ticks are the nanoseconds; or it contradicts the others
  const auto ns = static_cast<int64_t>(anchor.monotonic_ns - origin_ns_);
  if (ns - last.ns < kLeastSpanNs || ns > kEndOfTimeNs)
    return;
  const double slope =
      static_cast<double>(ns - last.ns) / static_cast<double>(anchor.ticks - last.ticks);
  if (slope > kMostNsPerTick)
    return;
  last.ns_per_tick = slope;
  pieces_.push_back({anchor.ticks, ns, slope});
}

int64_t TickScale::ns(uint64_t ticks) const {
  if (ticks < pieces_[last_].ticks ||
      (last_ + 1 < pieces_.size() && ticks >= pieces_[last_ + 1].ticks)) {
    const auto after = std::ranges::upper_bound(pieces_, ticks, {}, &Piece::ticks);
    last_ = after == pieces_.begin() ? 0 : static_cast<size_t>(after - pieces_.begin()) - 1;
  }
  const Piece& piece = pieces_[last_];
  if (ticks <= piece.ticks)
    return piece.ns;
  const double ns = static_cast<double>(ticks - piece.ticks) * piece.ns_per_tick;
  if (ns >= static_cast<double>(kEndOfTimeNs - piece.ns))
    return kEndOfTimeNs;
  const int64_t result = piece.ns + static_cast<int64_t>(ns);
  // Rounding must not step over the next anchor.
  return last_ + 1 < pieces_.size() ? std::min(result, pieces_[last_ + 1].ns) : result;
}

} // namespace memtrace
