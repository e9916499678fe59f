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

void Timeline::add_rows(Table& table, StringId device, const std::array<StringId, kMetrics>& names,
                        size_t metrics) {
  join_to(std::clamp(changes_ / kChangesPerBin, kFewestBins, kMostBins));
  for (size_t metric = 0; metric < metrics; ++metric)
    for (const Bin& bin : bins_)
      table.add(device, names[metric], StringId::null, bin.place << shift_, bin.min[metric],
                bin.max[metric], bin.last[metric]);
}

} // namespace memtrace
