// A device's bytes over time in a bounded number of bins: what a chart draws.
//
// Bins are as narrow as the bound allows; when there are too many, neighbours are joined. Only bins
// in which something changed are kept; between them the last value stands.
#pragma once

#include "analyse/columns.h"

#include <array>
#include <cstdint>
#include <vector>

namespace memtrace {

class Timeline {
 public:
  static constexpr size_t kMetrics = 3; // allocated, active, reserved
  using Values = std::array<int64_t, kMetrics>;

  // Times must not fall.
  void add(int64_t time_ns, const Values& values) {
    ++changes_;
    const int64_t place = time_ns >> shift_;
    if (bins_.empty() || bins_.back().place != place)
      open_bin(place);
    Bin& bin = bins_.back();
    for (size_t i = 0; i < kMetrics; ++i) {
      bin.min[i] = values[i] < bin.min[i] ? values[i] : bin.min[i];
      bin.max[i] = values[i] > bin.max[i] ? values[i] : bin.max[i];
    }
    bin.last = values;
  }
  // What it held at most in each of `points` equal parts of [start, end); before the first change
  // 0.
  std::vector<Values> curve(int64_t start_ns, int64_t end_ns, size_t points) const;
  // The first `metrics` of them.
  void add_rows(Table& table, StringId device, const std::array<StringId, kMetrics>& names,
                size_t metrics);

 private:
  static constexpr size_t kMostBins = 16384;
  static constexpr size_t kFewestBins = 512;
  // A chart does not need more bins than this share of the changes, and a short trace should not
  // be mostly timeline.
  static constexpr size_t kChangesPerBin = 32;

  struct Bin {
    int64_t place;
    Values min, max, last;
  };
  void open_bin(int64_t place);
  void join_to(size_t most_bins);

  int shift_ = 10; // bins of 2^shift_ ns
  size_t changes_ = 0;
  std::vector<Bin> bins_;
};

} // namespace memtrace
