// Who holds how much of each device, now and at the peak so far, kept as allocations come and go.
//
// An owner is what allocations have in common that a table is made of. The sums of the peak are not
// copied at a peak: an owner whose sums changed since then is on a list, and a new peak takes over
// the sums of those on it. A list gets at most one owner longer with each event, so that the peak
// costs no more than the events, also while memory grows and each event is a peak.
#pragma once

#include "analyse/allocation_watch.h"
#include "analyse/name_strings.h"
#include "record/event.h"

#include <array>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace memtrace {

struct LiveOwner {
  DeviceCode device = kCpu;
  Category category = Category::none; // that is proven until now; `none`: not known yet
  StringId op = StringId::null, module = StringId::null, source = StringId::null;

  bool operator==(const LiveOwner&) const = default;
};

struct LiveSums {
  int64_t bytes = 0, blocks = 0;
};

class LiveOwners final : public AllocationWatch {
 public:
  struct Row {
    LiveOwner owner;
    LiveSums now, peak;
    bool changed = false; // since the peak
  };
  struct Device {
    DeviceBytes now, peak;          // `peak`: when allocated was largest, first
    int64_t most_reserved = 0;      // at any time
    Place peak_place{kNull, kNull}; // of the event that made it
    LiveSums external;              // memory of others that torch was handed: not in `now`
    std::vector<uint32_t> changed;  // rows
  };

  explicit LiveOwners(NameStrings& names) : names_(names) {}

  void began(Allocation& allocation) override;
  void freed(const Allocation& allocation) override;
  void named(Allocation& allocation, StringId name, StringId kind) override;
  void counted(DeviceCode code, const DeviceBytes& bytes, Place place) override;
  // Its module, class or line is another one than was thought: `allocation` says which.
  void corrected(Allocation& allocation);
  // Whether memory from before the recording was there at all times: so it is when nothing was
  // lost. It is known of only when a scan finds it, and then was in the peak as well.
  void set_complete(bool complete) { complete_ = complete; }

  const std::vector<Row>& rows() const { return rows_; }
  const Device& device(DeviceCode code) const { return devices_[code]; }
  // CPU bytes that were there before the time at which they were found: (time_ns, bytes).
  const std::vector<std::pair<int64_t, int64_t>>& found_late() const { return found_late_; }

 private:
  struct Hash {
    size_t operator()(const LiveOwner& owner) const;
  };
  uint32_t row_of(const LiveOwner& owner);
  void was_there(Allocation& allocation);
  void add(uint32_t number, int64_t bytes, int64_t blocks);
  void move(Allocation& allocation, const LiveOwner& to);
  StringId module_of_parameter(StringId name);

  NameStrings& names_;
  std::vector<Row> rows_;
  std::unordered_map<LiveOwner, uint32_t, Hash> row_numbers_;
  uint32_t last_row_ = 0;
  std::array<Device, 256> devices_;
  std::vector<std::pair<int64_t, int64_t>> found_late_;
  bool complete_ = true;
};

} // namespace memtrace
