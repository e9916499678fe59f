// The driver below the allocator: what it gives, at which address, and what it was asked for.
//
// Either a recording speaks (its segment events give the addresses, and each event of the replay is
// compared with the recorded one), or the addresses are made up. Best fit breaks ties by address:
// made up in rising and in falling order they show where ties matter.
#pragma once

#include "analyse/allocator_settings.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace memtrace::replay {

enum class SegmentAction : uint8_t { alloc, free, map, unmap, oom };

// One event between allocator and driver, as torch reports it.
struct SegmentEvent {
  SegmentAction action = SegmentAction::alloc;
  uint16_t stream = 0;  // place of its handle among all handles, in rising order
  uint64_t address = 0; // 0 for `oom`
  uint64_t size_bytes = 0;

  bool operator==(const SegmentEvent&) const = default;
};

// Where the replay left the recording. Neither event: an allocation was put at another address.
struct Divergence {
  size_t compared = 0; // segment events that agreed before it
  std::optional<SegmentEvent> predicted = std::nullopt, recorded = std::nullopt;
  uint64_t predicted_address = 0, recorded_address = 0;
};

enum class Addresses : uint8_t { recorded, rising, falling };

class Driver {
 public:
  // No capacity: as much as the recording got, or without end where nothing is recorded.
  // `recorded` must outlive the driver.
  Driver(std::optional<uint64_t> capacity_bytes, Addresses addresses,
         std::span<const SegmentEvent> recorded);

  bool gives(uint64_t reserved_bytes, const SegmentEvent& request) const;
  uint64_t segment_address(uint64_t size_bytes);
  // A reservation's base shows in the first range that is mapped into it, which may come later.
  // `known(address)`: inside a reservation that exists.
  template <typename Known>
  uint64_t reservation_base(uint64_t extent_bytes, uint64_t page_bytes, uint16_t stream, bool small,
                            Known known) {
    if (addresses_ == Addresses::recorded)
      for (const SegmentEvent& event : recorded_.subspan(compared_))
        if (event.action == SegmentAction::map && event.stream == stream &&
            maps_pages_of(event, page_bytes, small) && !known(event.address))
          return event.address;
    return made_up(reservations_, extent_bytes);
  }
  void tell(const SegmentEvent& event);
  // An allocation's address, where the recording has it.
  void compare_address(uint64_t predicted, uint64_t recorded);
  // Nothing more will be told: what is left of the recording was not predicted.
  void finish();

  size_t compared() const { return compared_; }
  const std::optional<Divergence>& divergence() const { return divergence_; }
  void keep_events() { keeps_ = true; }
  const std::vector<SegmentEvent>& events() const { return kept_; }

 private:
  // A small pool maps one small page at a time; a large one as many of its own as it needs.
  static bool maps_pages_of(const SegmentEvent& event, uint64_t page_bytes, bool small) {
    const bool one_small = event.size_bytes == kSmallPageBytes;
    return small ? one_small : (!one_small || page_bytes == kSmallPageBytes);
  }
  uint64_t made_up(uint64_t& edge, uint64_t size_bytes) const;

  std::optional<uint64_t> capacity_bytes_;
  Addresses addresses_;
  std::span<const SegmentEvent> recorded_;
  size_t compared_ = 0;
  uint64_t segments_, reservations_; // where the next made-up ones begin (or end, when falling)
  std::optional<Divergence> divergence_;
  bool keeps_ = false;
  std::vector<SegmentEvent> kept_;
};

} // namespace memtrace::replay
