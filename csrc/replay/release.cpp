// How cached memory goes back to the driver: when it is full, above a threshold, or when told.
#include "replay/allocator.h"

namespace memtrace::replay {

// Gives a free segment back; not one of a reservation.
void CachingAllocator::release(BlockIndex index) {
  const Block& block = blocks_[index];
  take_free(index);
  bytes_.reserved -= block.size_bytes;
  --segments_;
  driver_.tell({SegmentAction::free, block.stream, block.address, block.size_bytes});
  drop_block(index);
}

// All free memory of one pool: whole segments as they come, then the pages of reservations.
void CachingAllocator::release_free(uint16_t pool) {
  std::vector<BlockIndex> whole_segments, expandable;
  for (const OrderedBlocks& blocks : pools_[pool].free)
    blocks.for_each([&](const BlockKey& key) {
      if (blocks_[key.block].reservation != kNoReservation)
        expandable.push_back(key.block);
      else if (whole(blocks_[key.block]))
        whole_segments.push_back(key.block);
    });
  for (const BlockIndex block : whole_segments)
    release(block);
  for (const BlockIndex block : expandable)
    unmap(block);
}

// What is cached in the default pools, and in private ones that nobody uses any more.
void CachingAllocator::release_cached() {
  if (captures_ == 0) {
    complete_all(std::nullopt);
    release_free(1); // large
    release_free(0);
  }
  for (const uint16_t pool : used_)
    if (uses_[pool] <= 0) {
      release_free(static_cast<uint16_t>(2 * pool));
      release_free(static_cast<uint16_t>(2 * pool + 1));
    }
}

// Gives blocks back that may not be split, enough for the request; false: there are not enough.
bool CachingAllocator::release_oversize(uint16_t pool, uint16_t stream, uint64_t rounded_bytes) {
  const uint64_t least = settings_.max_split_bytes;
  if (least == UINT64_MAX)
    return false;
  const uint64_t wanted = std::max(rounded_bytes, least);
  const OrderedBlocks& free = pools_[pool].free[stream];
  OrderedBlocks::Cursor at = free.lower_bound(wanted);
  // Blocks of this size are never split, but they may be from before the setting was made.
  const auto stays = [&](BlockIndex block) {
    return blocks_[block].reservation != kNoReservation || !whole(blocks_[block]);
  };
  if (!free.at_end(at) && !stays(free[at].block)) {
    release(free[at].block);
    return true;
  }
  std::vector<BlockIndex> gone; // largest first
  uint64_t bytes = 0;
  while (bytes < wanted && free.step_back(at) && free[at].size_bytes >= least)
    if (!stays(free[at].block)) {
      bytes += free[at].size_bytes;
      gone.push_back(free[at].block);
    }
  for (const BlockIndex block : gone)
    release(block);
  return bytes >= wanted;
}

// Above the threshold: gives the oldest whole segments of the default large pool back, in passes.
// Age is the number of searches in the pool since the block became free.
void CachingAllocator::collect_garbage() {
  const auto limit = static_cast<uint64_t>(settings_.garbage_collection_threshold *
                                           static_cast<double>(allowed_bytes_.value_or(0)));
  if (bytes_.reserved <= limit)
    return;
  const uint64_t wanted = bytes_.reserved - limit;
  const Pool& pool = pools_[1];
  std::vector<BlockIndex> candidates;
  double age = 0;
  const auto age_of = [&](BlockIndex block) {
    return static_cast<double>(pool.searches - blocks_[block].searches_at_insert);
  };
  for (const OrderedBlocks& blocks : pool.free)
    blocks.for_each([&](const BlockKey& key) {
      if (whole(blocks_[key.block])) {
        candidates.push_back(key.block);
        age += age_of(key.block);
      }
    });
  uint64_t freed = 0;
  for (bool any = true; freed < wanted && any && !candidates.empty();) {
    any = false;
    const double mean = age / static_cast<double>(candidates.size());
    std::vector<BlockIndex> rest;
    for (const BlockIndex block : candidates) {
      if (blocks_[block].reservation != kNoReservation || age_of(block) < mean) {
        rest.push_back(block);
        continue;
      }
      any = true;
      freed += blocks_[block].size_bytes;
      age -= age_of(block);
      release(block);
    }
    candidates.swap(rest);
  }
}

} // namespace memtrace::replay
