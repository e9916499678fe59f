// Expandable segments: a reservation of addresses per stream and pool, mapped page by page.
#include "replay/allocator.h"

#include <algorithm>

namespace memtrace::replay {
namespace {

uint64_t round_up(uint64_t bytes, uint64_t step) {
  return (bytes + step - 1) / step * step;
}

} // namespace

uint64_t CachingAllocator::room(const Block& block) const {
  if (block.next == kNoBlock || blocks_[block.next].mapped)
    return block.size_bytes;
  return block.size_bytes + blocks_[block.next].size_bytes;
}

// A free block of `bytes`, in no list, made of what is free and what had to be mapped.
BlockIndex CachingAllocator::expand(uint16_t pool, uint16_t stream, uint64_t bytes) {
  BlockIndex at = find_expandable(pool, stream, bytes);
  if (at == kNoBlock)
    at = reserve(pool, stream);
  if (!blocks_[at].mapped && !map(at, std::min(blocks_[at].size_bytes, bytes)))
    return kNoBlock;
  while (blocks_[at].size_bytes < bytes) {
    // What follows is unmapped; mapped, it takes the block before it in.
    const BlockIndex next = blocks_[at].next;
    if (next == kNoBlock)
      return kNoBlock; // more than a whole reservation: none can serve it
    const uint64_t missing = bytes - blocks_[at].size_bytes;
    if (!map(next, std::min(missing, blocks_[next].size_bytes)))
      return kNoBlock;
    at = next;
  }
  take_free(at);
  return at;
}

// Where a run of free and unmapped blocks of the stream is long enough: the lowest one.
BlockIndex CachingAllocator::find_expandable(uint16_t pool, uint16_t stream, uint64_t bytes) const {
  const OrderedBlocks& unmapped = pools_[pool].unmapped[stream];
  for (auto at = unmapped.lower_bound(0); !unmapped.at_end(at); at = unmapped.next(at)) {
    BlockIndex first = unmapped[at].block;
    const BlockIndex before = blocks_[first].previous;
    if (before != kNoBlock && blocks_[before].state == State::free)
      first = before;
    uint64_t found = 0;
    for (BlockIndex block = first;
         found < bytes && block != kNoBlock && blocks_[block].state == State::free;
         block = blocks_[block].next)
      found += blocks_[block].size_bytes;
    if (found >= bytes)
      return first;
  }
  return kNoBlock;
}

// A new reservation, as one unmapped block.
BlockIndex CachingAllocator::reserve(uint16_t pool, uint16_t stream) {
  const bool small = pools_[pool].small;
  const uint64_t page = small ? kSmallPageBytes : settings_.large_segment_bytes;
  const uint64_t extent = round_up(total_bytes_ + total_bytes_ / 8, page);
  const auto known = [&](uint64_t address) {
    return std::ranges::any_of(reservations_, [&](const Reservation& r) {
      return r.exists && address >= r.base && address < r.base + r.size_bytes;
    });
  };
  const uint64_t base = driver_.reservation_base(extent, page, stream, small, known);
  reservations_.push_back({base, extent, page, 0, true});
  Block block;
  block.address = base;
  block.size_bytes = extent;
  block.stream = stream;
  block.pool = pool;
  block.reservation = static_cast<uint32_t>(reservations_.size() - 1);
  block.mapped = false;
  const BlockIndex index = new_block(block);
  put_unmapped(index);
  return index;
}

// Maps at least `bytes` from the unmapped block's beginning (at most all of it), or nothing.
bool CachingAllocator::map(BlockIndex index, uint64_t bytes) {
  Reservation& reservation = reservations_[blocks_[index].reservation];
  bytes = std::min(round_up(bytes, reservation.page_bytes), blocks_[index].size_bytes);
  const SegmentEvent asked{SegmentAction::map, blocks_[index].stream, blocks_[index].address,
                           bytes};
  if (!driver_.gives(bytes_.reserved, asked))
    return false;
  take_unmapped(index);
  if (bytes < blocks_[index].size_bytes) {
    Block rest = blocks_[index];
    rest.address += bytes;
    rest.size_bytes -= bytes;
    const BlockIndex added = new_block(rest);
    insert_after(added, index);
    put_unmapped(added);
  }
  Block& block = blocks_[index];
  block.size_bytes = bytes;
  block.mapped = true;
  merge(index, block.previous);
  merge(index, block.next);
  put_free(index);
  segments_ += reservation.mapped_bytes == 0 ? 1 : 0;
  reservation.mapped_bytes += bytes;
  raise_reserved(bytes);
  driver_.tell(asked);
  return true;
}

// Gives back the whole pages inside a free block; its head and tail stay.
void CachingAllocator::unmap(BlockIndex index) {
  const uint32_t number = blocks_[index].reservation;
  const uint64_t base = reservations_[number].base, page = reservations_[number].page_bytes;
  const uint64_t start = blocks_[index].address, end = start + blocks_[index].size_bytes;
  const uint64_t first = base + round_up(start - base, page);
  const uint64_t last = base + (end - base) / page * page;
  if (first >= last)
    return;
  take_free(index);
  const auto keep = [&](uint64_t from, uint64_t to) {
    Block rest = blocks_[index];
    rest.address = from;
    rest.size_bytes = to - from;
    return new_block(rest);
  };
  if (start < first) {
    const BlockIndex head = keep(start, first);
    insert_before(head, index);
    put_free(head);
  }
  if (last < end) {
    const BlockIndex tail = keep(last, end);
    insert_after(tail, index);
    put_free(tail);
  }
  Block& block = blocks_[index];
  block.address = first;
  block.size_bytes = last - first;
  block.mapped = false;
  merge(index, block.previous);
  merge(index, block.next);
  put_unmapped(index);
  const SegmentEvent given{SegmentAction::unmap, block.stream, first, last - first};
  reservations_[number].mapped_bytes -= given.size_bytes;
  segments_ -= reservations_[number].mapped_bytes == 0 ? 1 : 0;
  bytes_.reserved -= given.size_bytes;
  driver_.tell(given);
  if (whole(block)) {
    take_unmapped(index);
    reservations_[number].exists = false;
    drop_block(index);
  }
}

} // namespace memtrace::replay
