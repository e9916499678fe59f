#include "analyse/allocator_settings.h"

#include "analyse/json.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace memtrace {
namespace {

// What a trace says beyond these, torch cannot have been set to.
constexpr int64_t kMostBytes = int64_t{1} << 48;
constexpr int64_t kMostDivisions = int64_t{1} << 30;

uint64_t round_up(uint64_t bytes, uint64_t step) {
  return (bytes + step - 1) / step * step;
}

} // namespace

PoolRules PoolRules::from_json(std::string_view text) {
  const auto json = Json::parse(text);
  if (!json)
    return {};
  return {(*json)["no_split"].boolean(), (*json)["own_allocator"].boolean()};
}

AllocatorSettings AllocatorSettings::from_json(std::string_view text) {
  AllocatorSettings settings;
  const auto json = Json::parse(text);
  if (!json)
    return settings;
  settings.blocks_only = (*json)["blocks_only"].boolean();
  settings.expandable_segments = (*json)["expandable_segments"].boolean();
  const auto read_bytes = [&](std::string_view key, uint64_t least, uint64_t& bytes) {
    const int64_t found = (*json)[key].integer(-1);
    if (std::cmp_greater_equal(found, least) && found <= kMostBytes)
      bytes = static_cast<uint64_t>(found);
  };
  read_bytes("max_split_size", 0, settings.max_split_bytes);
  read_bytes("large_segment_size", kLeastOwnSegmentBytes, settings.large_segment_bytes);
  read_bytes("max_non_split_rounding", 1, settings.max_non_split_rounding_bytes);
  if (const double share = (*json)["garbage_collection_threshold"].number(); share > 0 && share < 1)
    settings.garbage_collection_threshold = share;
  const auto& divisions = (*json)["roundup_power2_divisions"].array();
  for (size_t i = 0; i < std::min(divisions.size(), settings.roundup_power2_divisions.size()); ++i)
    if (const int64_t found = divisions[i].integer();
        found > 0 && found <= kMostDivisions && std::has_single_bit(static_cast<uint64_t>(found)))
      settings.roundup_power2_divisions[i] = static_cast<uint64_t>(found);
  return settings;
}

uint64_t AllocatorSettings::round(uint64_t bytes) const {
  if (blocks_only)
    return std::max(bytes, uint64_t{1});
  if (bytes < kSmallestBlockBytes)
    return kSmallestBlockBytes;
  const int log2 = static_cast<int>(std::bit_width(bytes)) - 1;
  const auto size_class = static_cast<size_t>(std::clamp(log2 - 20, 0, 15));
  const uint64_t divisions = roundup_power2_divisions[size_class];
  if (divisions > 1 && bytes > kSmallestBlockBytes * divisions) {
    const uint64_t power = uint64_t{1} << log2;
    if (power == bytes)
      return bytes;
    return round_up(bytes, power >> (std::bit_width(divisions) - 1));
  }
  return round_up(bytes, kSmallestBlockBytes);
}

uint64_t AllocatorSettings::segment_bytes(uint64_t rounded_bytes) const {
  if (small(rounded_bytes))
    return kSmallPageBytes;
  if (rounded_bytes < kLeastOwnSegmentBytes)
    return large_segment_bytes;
  return round_up(rounded_bytes, kSmallPageBytes);
}

bool AllocatorSettings::splits(uint64_t block_bytes, uint64_t rounded_bytes,
                               const PoolRules& pool) const {
  if (pool.no_split)
    return false;
  const uint64_t rest = block_bytes - rounded_bytes;
  if (small(rounded_bytes) || expands(pool))
    return rest >= kSmallestBlockBytes;
  return rounded_bytes < max_split_bytes && rest > kMiB;
}

} // namespace memtrace
