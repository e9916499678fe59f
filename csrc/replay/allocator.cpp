#include "replay/allocator.h"

#include <algorithm>
#include <utility>

namespace memtrace::replay {

CachingAllocator::CachingAllocator(const AllocatorSettings& settings, Driver driver,
                                   uint64_t total_bytes, uint16_t streams, uint16_t pools)
    : settings_(settings), driver_(std::move(driver)), total_bytes_(total_bytes),
      pools_(size_t{2} * pools), uses_(pools) {
  for (size_t i = 0; i < pools_.size(); ++i) {
    pools_[i].small = i % 2 == 0;
    pools_[i].free.resize(streams);
    pools_[i].unmapped.resize(streams);
  }
}

// ---- blocks and their neighbours ----------------------------------------------------------------

BlockIndex CachingAllocator::new_block(const Block& block) {
  if (unused_.empty()) {
    blocks_.push_back(block);
    return static_cast<BlockIndex>(blocks_.size() - 1);
  }
  const BlockIndex index = unused_.back();
  unused_.pop_back();
  blocks_[index] = block;
  return index;
}

void CachingAllocator::drop_block(BlockIndex index) {
  blocks_[index].allocation = kNoAllocation;
  unused_.push_back(index);
}

void CachingAllocator::insert_before(BlockIndex added, BlockIndex block) {
  const BlockIndex previous = blocks_[block].previous;
  blocks_[added].previous = previous;
  blocks_[added].next = block;
  if (previous != kNoBlock)
    blocks_[previous].next = added;
  blocks_[block].previous = added;
}

void CachingAllocator::insert_after(BlockIndex added, BlockIndex block) {
  const BlockIndex next = blocks_[block].next;
  blocks_[added].previous = block;
  blocks_[added].next = next;
  if (next != kNoBlock)
    blocks_[next].previous = added;
  blocks_[block].next = added;
}

void CachingAllocator::put_free(BlockIndex index) {
  Block& block = blocks_[index];
  Pool& pool = pools_[block.pool];
  block.searches_at_insert = pool.searches;
  pool.free[block.stream].insert({block.size_bytes, block.address, index});
}

void CachingAllocator::take_free(BlockIndex index) {
  const Block& block = blocks_[index];
  pools_[block.pool].free[block.stream].erase({block.size_bytes, block.address, index});
}

void CachingAllocator::put_unmapped(BlockIndex index) {
  const Block& block = blocks_[index];
  pools_[block.pool].unmapped[block.stream].insert({0, block.address, index});
}

void CachingAllocator::take_unmapped(BlockIndex index) {
  const Block& block = blocks_[index];
  pools_[block.pool].unmapped[block.stream].erase({0, block.address, index});
}

// `from`, a neighbour that is free and in its list, becomes part of `into`, which is in no list.
void CachingAllocator::merge(BlockIndex into, BlockIndex from) {
  if (from == kNoBlock || blocks_[from].state != State::free ||
      blocks_[from].mapped != blocks_[into].mapped)
    return;
  if (blocks_[from].mapped)
    take_free(from);
  else
    take_unmapped(from);
  Block& grown = blocks_[into];
  const Block& gone = blocks_[from];
  grown.size_bytes += gone.size_bytes;
  if (grown.previous == from) {
    grown.address = gone.address;
    grown.previous = gone.previous;
    if (grown.previous != kNoBlock)
      blocks_[grown.previous].next = into;
  } else {
    grown.next = gone.next;
    if (grown.next != kNoBlock)
      blocks_[grown.next].previous = into;
  }
  drop_block(from);
}

void CachingAllocator::raise_reserved(uint64_t bytes) {
  bytes_.reserved += bytes;
  peak_reserved_bytes_ = std::max(peak_reserved_bytes_, bytes_.reserved);
}

uint64_t CachingAllocator::largest_free_bytes() const {
  uint64_t largest = 0;
  for (const Pool& pool : pools_)
    for (const OrderedBlocks& blocks : pool.free)
      if (const BlockKey* last = blocks.last())
        largest = std::max(largest, last->size_bytes);
  return largest;
}

// ---- requests -----------------------------------------------------------------------------------

BlockIndex CachingAllocator::malloc(uint64_t size_bytes, uint16_t stream, uint16_t pool,
                                    uint32_t allocation) {
  const uint64_t rounded = settings_.round(size_bytes);
  const bool small = AllocatorSettings::small(rounded);
  const auto place = static_cast<uint16_t>(2 * pool + (small ? 0 : 1));
  BlockIndex found = best_fit(place, stream, rounded);
  if (found == kNoBlock) {
    if (collects())
      collect_garbage();
    found = from_driver(place, stream, rounded);
    if (found == kNoBlock && release_oversize(place, stream, rounded))
      found = from_driver(place, stream, rounded);
    if (found == kNoBlock && captures_ == 0) {
      release_cached();
      ++retries_;
      found = from_driver(place, stream, rounded);
    }
    if (found == kNoBlock) {
      driver_.tell({SegmentAction::oom, stream, 0, rounded});
      return kNoBlock;
    }
  }
  if (settings_.splits(blocks_[found].size_bytes, rounded, pools_[place].rules)) {
    // The front is the allocation; the tail stays free.
    Block front = blocks_[found];
    front.size_bytes = rounded;
    const BlockIndex index = new_block(front);
    insert_before(index, found);
    blocks_[found].address += rounded;
    blocks_[found].size_bytes -= rounded;
    put_free(found);
    found = index;
  }
  Block& block = blocks_[found];
  block.state = State::allocated;
  block.allocation = allocation;
  block.requested_bytes = size_bytes;
  bytes_.allocated += block.size_bytes;
  bytes_.active += block.size_bytes;
  bytes_.requested += size_bytes;
  return found;
}

void CachingAllocator::free_requested(BlockIndex index, uint32_t allocation) {
  if (index == kNoBlock || blocks_[index].allocation != allocation)
    return;
  Block& block = blocks_[index];
  if (block.state != State::allocated)
    return;
  block.state = State::pending;
  block.pending_place = static_cast<uint32_t>(pending_.size());
  pending_.push_back(index);
  bytes_.allocated -= block.size_bytes;
}

void CachingAllocator::free_completed(BlockIndex index, uint32_t allocation) {
  if (index == kNoBlock || blocks_[index].allocation != allocation)
    return;
  if (blocks_[index].state == State::pending)
    complete(index);
}

void CachingAllocator::complete(BlockIndex index) {
  Block& block = blocks_[index];
  const BlockIndex moved = pending_.back();
  pending_[block.pending_place] = moved;
  blocks_[moved].pending_place = block.pending_place;
  pending_.pop_back();
  bytes_.active -= block.size_bytes;
  bytes_.requested -= block.requested_bytes;
  block.state = State::free;
  block.allocation = kNoAllocation;
  merge(index, block.previous);
  merge(index, block.next);
  put_free(index);
}

// Waits for every free that is requested, of one pool or of all.
void CachingAllocator::complete_all(std::optional<uint16_t> pool) {
  const std::vector<BlockIndex> waited = pending_;
  for (const BlockIndex index : waited)
    if (!pool || blocks_[index].pool / 2 == *pool)
      complete(index);
}

void CachingAllocator::set_memory_fraction(double fraction) {
  allowed_bytes_.reset();
  if (fraction < 1.0)
    allowed_bytes_ = static_cast<uint64_t>(fraction * static_cast<double>(total_bytes_));
}

void CachingAllocator::ref_pool(uint16_t pool) {
  if (std::ranges::find(used_, pool) == used_.end())
    used_.push_back(pool);
  ++uses_[pool];
}

void CachingAllocator::set_pool_rules(uint16_t pool, const PoolRules& rules) {
  pools_[size_t{2} * pool].rules = pools_[size_t{2} * pool + 1].rules = rules;
}

void CachingAllocator::unref_pool(uint16_t pool) {
  --uses_[pool];
}

void CachingAllocator::destroy_pool(uint16_t pool) {
  unref_pool(pool);
  if (uses_[pool] > 0)
    return;
  complete_all(pool);
  release_free(static_cast<uint16_t>(2 * pool));
  release_free(static_cast<uint16_t>(2 * pool + 1));
}

// ---- where an allocation comes from -------------------------------------------------------------

// The smallest free block of the stream that the settings let serve the request, taken from its
// list. Only one candidate is looked at: when it is refused, the driver is asked.
BlockIndex CachingAllocator::best_fit(uint16_t pool, uint16_t stream, uint64_t bytes) {
  if (collects())
    ++pools_[pool].searches;
  const OrderedBlocks& free = pools_[pool].free[stream];
  OrderedBlocks::Cursor at = free.lower_bound(bytes);
  if (free.at_end(at))
    return kNoBlock;
  const auto expandable = [&](OrderedBlocks::Cursor place) {
    return blocks_[free[place].block].reservation != kNoReservation;
  };
  if (expandable(at)) {
    if (settings_.expands(pools_[pool].rules)) {
      // A block that can grow counts as large as it can become.
      for (auto next = free.next(at); expandable(at) && !free.at_end(next); next = free.next(at)) {
        if (room(blocks_[free[next].block]) >= room(blocks_[free[at].block]))
          break;
        at = next;
      }
    } else {
      do
        at = free.next(at);
      while (!free.at_end(at) && expandable(at));
      if (free.at_end(at))
        return kNoBlock;
    }
  }
  const BlockKey found = free[at];
  if (bytes < settings_.max_split_bytes && found.size_bytes >= settings_.max_split_bytes)
    return kNoBlock;
  if (bytes >= settings_.max_split_bytes &&
      found.size_bytes >= bytes + settings_.max_non_split_rounding_bytes)
    return kNoBlock;
  take_free(found.block);
  return found.block;
}

BlockIndex CachingAllocator::from_driver(uint16_t pool, uint16_t stream, uint64_t rounded_bytes) {
  const uint64_t bytes = settings_.segment_bytes(rounded_bytes);
  if (allowed_bytes_ && bytes_.reserved + bytes > *allowed_bytes_)
    return kNoBlock;
  if (settings_.expands(pools_[pool].rules))
    return expand(pool, stream, rounded_bytes);
  SegmentEvent asked{SegmentAction::alloc, stream, 0, bytes};
  if (!driver_.gives(bytes_.reserved, asked))
    return kNoBlock;
  asked.address = driver_.segment_address(bytes);
  raise_reserved(bytes);
  ++segments_;
  driver_.tell(asked);
  Block block;
  block.address = asked.address;
  block.size_bytes = bytes;
  block.stream = stream;
  block.pool = pool;
  return new_block(block);
}

} // namespace memtrace::replay
