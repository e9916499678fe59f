#include "analyse/reconcile.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace memtrace {
namespace {

struct Expected {
  int64_t value;
  bool bytes;
};

std::optional<int64_t> of_bytes(const DeviceBytes& bytes, std::string_view which) {
  if (which == "allocated_bytes")
    return bytes.allocated;
  if (which == "active_bytes")
    return bytes.active;
  if (which == "reserved_bytes")
    return bytes.reserved;
  if (which == "requested_bytes")
    return bytes.requested;
  return std::nullopt;
}

std::optional<Expected> expected(std::string_view metric, const DeviceTally& tally) {
  const size_t dot = metric.find('.');
  const std::string_view which = metric.substr(0, dot);
  const std::string_view when =
      dot == std::string_view::npos ? std::string_view{} : metric.substr(dot + 1);
  if (when == "current" || when == "peak") {
    if (when == "peak" && tally.began_in_midrun && !tally.peak_reset)
      return std::nullopt;
    if (const auto bytes = of_bytes(when == "peak" ? tally.peak : tally.current, which))
      return Expected{*bytes, true};
    return std::nullopt;
  }
  if (tally.began_in_midrun)
    return std::nullopt;
  if (metric == "allocation.allocated")
    return Expected{tally.allocations, false};
  if (metric == "allocation.freed")
    return Expected{tally.frees, false};
  if (metric == "segment.allocated" && !tally.expandable)
    return Expected{tally.segments, false};
  if (metric == "num_ooms")
    return Expected{tally.ooms, false};
  return std::nullopt;
}

} // namespace

void Reconciliation::compare(std::string_view device, std::string_view metric, int64_t torch_value,
                             const DeviceTally& tally, int64_t seq) {
  const auto ours = expected(metric, tally);
  if (!ours)
    return;
  ++compared_;
  if (ours->value == torch_value)
    return;
  ++differing_;
  if (ours->bytes) {
    const auto difference = static_cast<uint64_t>(ours->value) - static_cast<uint64_t>(torch_value);
    mismatch_bytes_ = std::max(
        mismatch_bytes_,
        std::abs(std::max(static_cast<int64_t>(difference), -std::numeric_limits<int64_t>::max())));
  }
  if (note_.empty()) {
    note_ = std::string(metric) + " of " + std::string(device) + " at seq " + std::to_string(seq) +
            ": torch says " + std::to_string(torch_value) + ", the events say " +
            std::to_string(ours->value);
  }
}

} // namespace memtrace
