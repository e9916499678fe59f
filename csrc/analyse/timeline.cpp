#include "analyse/timeline.h"

#include <algorithm>

namespace memtrace {

void Timeline::open_bin(int64_t place) {
  if (bins_.size() >= kMostBins) {
    const int before = shift_;
    join_to(kMostBins / 2);
    place >>= shift_ - before;
    if (bins_.back().place == place)
      return;
  }
  // What stood before still stands as the bin begins.
  const Values start = bins_.empty() ? Values{} : bins_.back().last;
  bins_.push_back({place, start, start, start});
}

void Timeline::join_to(size_t most_bins) {
  while (bins_.size() > most_bins && shift_ < 62) {
    ++shift_;
    size_t kept = 0;
    for (Bin bin : bins_) { // a copy: its place may be written below
      bin.place >>= 1;
      if (kept > 0 && bins_[kept - 1].place == bin.place) {
        Bin& joined = bins_[kept - 1];
        for (size_t m = 0; m < kMetrics; ++m) {
          joined.min[m] = std::min(joined.min[m], bin.min[m]);
          joined.max[m] = std::max(joined.max[m], bin.max[m]);
        }
        joined.last = bin.last;
      } else {
        bins_[kept++] = bin;
      }
    }
    bins_.resize(kept);
  }
}

std::vector<Timeline::Values> Timeline::curve(int64_t start_ns, int64_t end_ns,
                                              size_t points) const {
  std::vector<Values> curve(points);
  if (points == 0 || end_ns <= start_ns)
    return curve;
  const double points_per_ns = static_cast<double>(points) / static_cast<double>(end_ns - start_ns);
  Values standing{};
  size_t filled = 0; // points that have a value
  for (const Bin& bin : bins_) {
    const int64_t time_ns = bin.place << shift_;
    if (time_ns >= end_ns)
      break;
    if (time_ns >= start_ns) {
      const auto point = std::min(
          static_cast<size_t>(static_cast<double>(time_ns - start_ns) * points_per_ns), points - 1);
      for (; filled <= point; ++filled)
        curve[filled] = standing;
      for (size_t m = 0; m < kMetrics; ++m)
        curve[point][m] = std::max(curve[point][m], bin.max[m]);
    }
    standing = bin.last;
  }
  for (; filled < points; ++filled)
    curve[filled] = standing;
  return curve;
}

void Timeline::add_rows(Table& table, StringId device, const std::array<StringId, kMetrics>& names,
                        size_t metrics) {
  join_to(std::clamp(changes_ / kChangesPerBin, kFewestBins, kMostBins));
  for (size_t metric = 0; metric < metrics; ++metric)
    for (const Bin& bin : bins_)
      table.add(device, names[metric], StringId::null, bin.place << shift_, bin.min[metric],
                bin.max[metric], bin.last[metric]);
}

} // namespace memtrace
