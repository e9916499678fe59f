// What must hold of an allocator at any time; the tests ask.
#include "replay/allocator.h"

namespace memtrace::replay {

std::string_view CachingAllocator::inconsistency() const {
  std::vector<bool> dropped(blocks_.size());
  for (const BlockIndex index : unused_)
    dropped[index] = true;
  Bytes sums;
  uint64_t free = 0, listed = 0;
  for (BlockIndex index = 0; index < blocks_.size(); ++index) {
    if (dropped[index])
      continue;
    const Block& block = blocks_[index];
    if (block.size_bytes == 0)
      return "an empty block";
    if (block.next != kNoBlock) {
      if (dropped[block.next] || blocks_[block.next].previous != index)
        return "neighbours do not agree";
      if (const std::string_view reason = discord(block, blocks_[block.next]); !reason.empty())
        return reason;
    }
    sums.reserved += block.mapped ? block.size_bytes : 0;
    (block.state == State::free ? free : sums.active) += block.size_bytes;
  }
  const auto add = [&](const BlockKey& key) { listed += blocks_[key.block].size_bytes; };
  for (const Pool& pool : pools_)
    for (size_t stream = 0; stream < pool.free.size(); ++stream) {
      pool.free[stream].for_each(add);
      pool.unmapped[stream].for_each(add);
    }
  if (listed != free)
    return "the lists do not hold what is free";
  if (sums.reserved != bytes_.reserved)
    return "mapped blocks do not sum to what is reserved";
  return sums.active != bytes_.active ? "held blocks do not sum to what is active" : "";
}

// Of two neighbours; empty: they fit.
std::string_view CachingAllocator::discord(const Block& block, const Block& next) {
  if (block.address + block.size_bytes != next.address)
    return "neighbours do not touch";
  if (block.state == State::free && next.state == State::free && block.mapped == next.mapped)
    return "two free neighbours";
  return "";
}

} // namespace memtrace::replay
