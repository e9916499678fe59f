// When a recording was paused, and the peaks that torch counted meanwhile, which no event tells.
#pragma once

#include "analyse/columns.h"
#include "record/event.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

namespace memtrace {

struct PausedInterval {
  int64_t start_ns, end_ns; // end: kNull when it lasted to the end
};

class Pauses {
 public:
  void pause(int64_t time_ns) {
    if (!is_on())
      intervals_.push_back({time_ns, kNull});
  }
  void resume(int64_t time_ns) {
    if (is_on())
      intervals_.back().end_ns = time_ns;
  }
  bool is_on() const { return !intervals_.empty() && intervals_.back().end_ns == kNull; }

  // A sample of torch's counter of the peak of allocated bytes. Its `reason` is "pause" just before
  // one, "resume" just after.
  void peak(DeviceCode device, int64_t bytes, std::string_view reason) {
    if (reason == "pause")
      before_[device] = bytes;
    else if ((is_on() || reason == "resume") && bytes > before_[device])
      peaks_[device] = std::max(peaks_[device], bytes);
  }
  // The counter is set to what is allocated now. kCpu: of all devices.
  void reset_peak(DeviceCode device) {
    if (device == kCpu)
      before_.clear();
    else
      before_.erase(device);
  }

  const std::vector<PausedInterval>& intervals() const { return intervals_; }
  // The most bytes that were allocated in any pause, of devices where that was more than before it
  // or where the counter was reset in it.
  const std::map<DeviceCode, int64_t>& peaks() const { return peaks_; }

 private:
  std::vector<PausedInterval> intervals_;
  std::map<DeviceCode, int64_t> before_, peaks_;
};

} // namespace memtrace
