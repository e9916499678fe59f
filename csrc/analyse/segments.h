// The memory that a CUDA device's allocator holds from the driver: segments and mapped ranges.
//
// A segment of cudaMalloc is one range. An expandable segment is one reservation of addresses in
// which each segment_map makes a range; a partial unmap splits ranges, so that the live ranges
// always sum to `reserved`. Blocks may merge only within one owner: a segment, or a reservation.
//
// A reservation is known by its place: torch reserves 1.125 times the device's memory and maps from
// its base on, so the first map at an address outside all known reservations shows a new base.
// Contiguity alone would join two reservations that lie back to back.
#pragma once

#include "analyse/allocator_settings.h"

#include <cstdint>
#include <map>
#include <vector>

namespace memtrace {

// Where something stands in the recording.
struct Place {
  int64_t seq;
  int64_t time_ns;
};

struct SegmentRange {
  int64_t id;
  uint64_t address, size_bytes;
  uint64_t stream;
  uint16_t pool;
  bool small, expandable;
  uint64_t owner; // blocks of one owner may merge
  Place alloc, free;
};

class Segments {
 public:
  // 0: not known; reservations are then told apart by stream, pool and contiguity only.
  void set_device_bytes(uint64_t bytes) { device_bytes_ = bytes; }
  // The recording began in mid-run: what was mapped by then need not start at its base.
  void forget_bases();

  // A range from cudaMalloc, or mapped into a reservation. The caller has checked that it is free.
  const SegmentRange& add(uint64_t address, uint64_t size_bytes, uint64_t stream, uint16_t pool,
                          bool expandable, const AllocatorSettings& settings, Place place);
  // Takes [address, address + size) out of all ranges. Returns the bytes that were held there.
  uint64_t remove(uint64_t address, uint64_t size_bytes, Place place);

  // The range that holds the address, or null.
  const SegmentRange* find(uint64_t address) const;
  // What an allocation in the range proves about its pool.
  void prove_small(const SegmentRange& range, bool small);

  const std::map<uint64_t, SegmentRange>& live() const { return live_; }
  // Ranges that ended since the last call.
  std::vector<SegmentRange> take_ended();

 private:
  struct Reservation {
    uint64_t owner;
    uint64_t base, extent;
    bool base_known;
    uint64_t stream;
    uint16_t pool;
    bool small;
    bool proven;
    uint64_t mapped_bytes;
  };
  Reservation& reservation(uint64_t address, uint64_t size_bytes, uint64_t stream, uint16_t pool,
                           const AllocatorSettings& settings);
  void unmap(uint64_t owner, uint64_t bytes);

  uint64_t device_bytes_ = 0;
  int64_t next_id_ = 1;
  uint64_t next_owner_ = 1;
  std::map<uint64_t, SegmentRange> live_; // by address
  std::vector<Reservation> reservations_;
  std::vector<SegmentRange> ended_;
};

} // namespace memtrace
