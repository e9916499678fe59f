#include "analyse/allocator_settings.h"

#include "analyse/json.h"

#include <algorithm>
#include <bit>

namespace memtrace {
namespace {

uint64_t round_up(uint64_t bytes, uint64_t step) {
  return (bytes + step - 1) / step * step;
}

} // namespace

AllocatorSettings AllocatorSettings::from_json(std::string_view text) {
  AllocatorSettings settings;
  const auto json = Json::parse(text);
  if (!json)
    return settings;
  settings.blocks_only = (*json)["blocks_only"].boolean();
  settings.expandable_segments = (*json)["expandable_segments"].boolean();
  if (const int64_t bytes = (*json)["max_split_size"].integer(-1); bytes >= 0)
    settings.max_split_bytes = static_cast<uint64_t>(bytes);
  if (const int64_t bytes = (*json)["large_segment_size"].integer(); bytes > 0)
    settings.large_segment_bytes = static_cast<uint64_t>(bytes);
  if (const int64_t bytes = (*json)["max_non_split_rounding"].integer(); bytes > 0)
    settings.max_non_split_rounding_bytes = static_cast<uint64_t>(bytes);
  settings.garbage_collection_threshold = (*json)["garbage_collection_threshold"].number();
  const auto& divisions = (*json)["roundup_power2_divisions"].array();
  for (size_t i = 0; i < std::min(divisions.size(), settings.roundup_power2_divisions.size()); ++i)
    settings.roundup_power2_divisions[i] =
        static_cast<uint64_t>(std::max<int64_t>(0, divisions[i].integer()));
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
    const uint64_t step = power >> (std::bit_width(divisions) - 1);
    return step == 0 ? 2 * power : round_up(bytes, step);
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

bool AllocatorSettings::splits(uint64_t block_bytes, uint64_t rounded_bytes) const {
  const uint64_t rest = block_bytes - rounded_bytes;
  if (small(rounded_bytes) || expandable_segments)
    return rest >= kSmallestBlockBytes;
  return rounded_bytes < max_split_bytes && rest > kMiB;
}

} // namespace memtrace
