#include "replay/driver.h"

namespace memtrace::replay {
namespace {

// Beside all addresses that a real driver gives: above them, or below.
constexpr uint64_t kRisingSegments = uint64_t{1} << 56;
constexpr uint64_t kRisingReservations = uint64_t{1} << 60;
constexpr uint64_t kFallingSegments = uint64_t{1} << 55;
constexpr uint64_t kFallingReservations = uint64_t{1} << 54;

} // namespace

Driver::Driver(std::optional<uint64_t> capacity_bytes, Addresses addresses,
               std::span<const SegmentEvent> recorded)
    : capacity_bytes_(capacity_bytes), addresses_(addresses),
      segments_(addresses == Addresses::falling ? kFallingSegments : kRisingSegments),
      reservations_(addresses == Addresses::falling ? kFallingReservations : kRisingReservations) {
  if (addresses == Addresses::recorded)
    recorded_ = recorded;
}

bool Driver::gives(uint64_t reserved_bytes, const SegmentEvent& request) const {
  if (capacity_bytes_)
    return reserved_bytes + request.size_bytes <= *capacity_bytes_;
  if (addresses_ != Addresses::recorded)
    return true;
  if (compared_ >= recorded_.size())
    return false;
  const SegmentEvent& next = recorded_[compared_];
  return next.action == request.action && next.size_bytes == request.size_bytes &&
         next.stream == request.stream;
}

uint64_t Driver::segment_address(uint64_t size_bytes) {
  if (addresses_ == Addresses::recorded && compared_ < recorded_.size() &&
      recorded_[compared_].action == SegmentAction::alloc)
    return recorded_[compared_].address;
  return made_up(segments_, size_bytes);
}

uint64_t Driver::made_up(uint64_t& edge, uint64_t size_bytes) const {
  const uint64_t bytes = (size_bytes + kSmallPageBytes - 1) / kSmallPageBytes * kSmallPageBytes;
  if (addresses_ == Addresses::falling)
    return edge -= bytes;
  edge += bytes;
  return edge - bytes;
}

void Driver::tell(const SegmentEvent& event) {
  if (keeps_)
    kept_.push_back(event);
  if (addresses_ != Addresses::recorded || divergence_)
    return;
  if (compared_ == recorded_.size()) {
    divergence_ = {.compared = compared_, .predicted = event};
  } else if (const SegmentEvent& next = recorded_[compared_]; next != event) {
    divergence_ = {.compared = compared_, .predicted = event, .recorded = next};
  } else {
    ++compared_;
  }
}

void Driver::compare_address(uint64_t predicted, uint64_t recorded) {
  if (addresses_ != Addresses::recorded || divergence_ || recorded == 0 || predicted == recorded)
    return;
  divergence_ = {
      .compared = compared_, .predicted_address = predicted, .recorded_address = recorded};
}

void Driver::finish() {
  if (!divergence_ && compared_ < recorded_.size())
    divergence_ = {.compared = compared_, .recorded = recorded_[compared_]};
}

} // namespace memtrace::replay
