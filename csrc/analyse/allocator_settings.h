// The settings of torch's CUDA caching allocator, and the sizes that follow from them.
//
// The rules are torch's own, verified to the byte against the real allocator (tests/analyse).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace memtrace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kSmallestBlockBytes = 512;
constexpr uint64_t kSmallPoolMostBytes = kMiB;
constexpr uint64_t kLeastOwnSegmentBytes = 10 * kMiB;
constexpr uint64_t kSmallPageBytes = 2 * kMiB;

// What a memory pool of the program's own does by other rules (torch.cuda.MemPool).
struct PoolRules {
  bool no_split = false;      // an allocation holds its whole segment
  bool own_allocator = false; // which gives its segments: they are not expandable

  // From the text of a `pool_ref` mark.
  static PoolRules from_json(std::string_view text);
};

struct AllocatorSettings {
  // Of an imported recording: the events tell blocks, neither what was asked for nor segments.
  bool blocks_only = false;
  bool expandable_segments = false;
  uint64_t max_split_bytes = UINT64_MAX;
  uint64_t large_segment_bytes = 20 * kMiB;
  // Of an allocation that no split may serve: how much larger its block may be.
  uint64_t max_non_split_rounding_bytes = 20 * kMiB;
  // Of the memory that a fraction allows; 0: nothing is collected.
  double garbage_collection_threshold = 0;
  // By floor(log2(size)) from 2^20 to 2^35; 0 or 1: no rounding to divisions.
  std::array<uint64_t, 16> roundup_power2_divisions{};

  // From the text of a `settings` mark; what it does not say, or torch would refuse, keeps its
  // default.
  static AllocatorSettings from_json(std::string_view text);

  uint64_t round(uint64_t bytes) const;
  static bool small(uint64_t rounded_bytes) { return rounded_bytes <= kSmallPoolMostBytes; }
  // What the driver is asked for, outside expandable segments.
  uint64_t segment_bytes(uint64_t rounded_bytes) const;
  bool expands(const PoolRules& pool) const { return expandable_segments && !pool.own_allocator; }
  bool splits(uint64_t block_bytes, uint64_t rounded_bytes, const PoolRules& pool = {}) const;
};

} // namespace memtrace
