// Our totals against torch's own counters, sample by sample: the trace's proof of itself.
#pragma once

#include "analyse/block_mirror.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace memtrace {

// What the events of one device add up to.
struct DeviceTally {
  DeviceBytes current, peak;
  int64_t allocations = 0, frees = 0, segments = 0, ooms = 0;
  // Memory from before the recording: peaks and counts of torch reach further back than ours.
  bool began_in_midrun = false;
  bool peak_reset = false;
  bool expandable = false; // torch does not count expandable segments
};

class Reconciliation {
 public:
  // Ignores metrics that events cannot tell.
  void compare(std::string_view device, std::string_view metric, int64_t torch_value,
               const DeviceTally& tally, int64_t seq);

  uint64_t compared() const { return compared_; }
  uint64_t differing() const { return differing_; }
  // The greatest difference in bytes; differing counts do not count as bytes.
  int64_t mismatch_bytes() const { return mismatch_bytes_; }
  // The first difference in words, empty when there is none.
  const std::string& note() const { return note_; }

 private:
  uint64_t compared_ = 0, differing_ = 0;
  int64_t mismatch_bytes_ = 0;
  std::string note_;
};

} // namespace memtrace
