// What a program asked of the allocator of one device, in order: the input of a replay.
//
// Columns of equal length that the caller keeps; `detail` says, by kind:
//
//     malloc, failed_malloc   the allocation's number; size_bytes, stream and pool belong to it
//     free_requested, free_completed   the allocation's number
//     memory_fraction         index into `fractions`
//     settings                index into `settings`
//     pool_* , use_pool_begin, capture_begin   only `pool` counts
#pragma once

#include "replay/allocator.h"

#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

namespace memtrace::replay {

enum class RequestKind : uint8_t {
  malloc,
  free_requested,
  free_completed,
  failed_malloc, // in the recording it failed
  empty_cache,
  memory_fraction,
  settings,
  capture_begin,
  capture_end,
  use_pool_begin,
  use_pool_end,
  pool_ref,
  pool_unref,
  pool_destroyed,
};
constexpr const char* kRequestKindNames[] = {
    "malloc",          "free_requested", "free_completed", "failed_malloc", "empty_cache",
    "memory_fraction", "settings",       "capture_begin",  "capture_end",   "use_pool_begin",
    "use_pool_end",    "pool_ref",       "pool_unref",     "pool_destroyed"};
constexpr size_t kRequestKinds = std::size(kRequestKindNames);

// Bits in `detail` of a pool_ref: PoolRules.
constexpr uint32_t kNoSplit = 1, kOwnAllocator = 2;

struct Requests {
  std::span<const uint8_t> kind; // of RequestKind
  std::span<const uint32_t> detail;
  std::span<const uint64_t> size_bytes; // requested
  std::span<const uint16_t> stream;     // place of its handle among all handles, in rising order
  std::span<const uint16_t> pool;       // 0: the default one
  std::span<const uint64_t> address;    // of a malloc's block, 0: not known; or empty
  std::span<const double> fractions;
  std::span<const AllocatorSettings> settings;
  // In order of address: what lay on the device before the first request.
  std::span<const HeldRange> ranges;
  std::span<const HeldBlock> blocks;
  // What the recording's allocator exchanged with the driver; in place order.
  std::span<const SegmentEvent> segment_events;
  uint32_t allocations = 0; // numbers are below this
  uint16_t streams = 1, pools = 1;

  size_t size() const { return kind.size(); }
  RequestKind kind_at(size_t index) const { return static_cast<RequestKind>(kind[index]); }
};

// Why the columns do not fit together; empty: they do.
const char* defect(const Requests& requests);

} // namespace memtrace::replay
