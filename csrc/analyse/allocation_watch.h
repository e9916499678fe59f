// Who is told of allocations as they begin and end, instead of reading rows when all is over.
#pragma once

#include "analyse/allocation.h"
#include "analyse/block_mirror.h"

namespace memtrace {

class AllocationWatch {
 public:
  // It is live, its block known; `allocation.owner` is the watch's to write.
  virtual void began(Allocation& allocation) = 0;
  // Its bytes count as allocated no more.
  virtual void freed(const Allocation& allocation) = 0;
  // Something was seen or said of it: a name, and what kind of tensor it is of.
  virtual void named(Allocation& allocation, StringId name, StringId kind) = 0;
  // After each event: what its device holds.
  virtual void counted(DeviceCode device, const DeviceBytes& bytes, Place place) = 0;

 protected:
  ~AllocationWatch() = default;
};

} // namespace memtrace
