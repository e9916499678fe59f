// An allocator that begins with what lay on the device.
#include "replay/allocator.h"

namespace memtrace::replay {

std::vector<BlockIndex> CachingAllocator::seed_ranges(std::span<const HeldRange> ranges,
                                                      std::span<const HeldBlock> blocks) {
  std::vector<BlockIndex> held;
  // Of each reservation: the last block so far. Its base is taken to be where its first range lies.
  std::vector<BlockIndex> tails;
  size_t at = 0;
  for (const HeldRange& range : ranges) {
    if (range.size_bytes == 0)
      continue;
    const auto pool = static_cast<uint16_t>(2 * range.pool + (range.small ? 0 : 1));
    BlockIndex last = kNoBlock;
    uint32_t reservation = kNoReservation;
    const auto append = [&](uint64_t address, uint64_t end, bool mapped) {
      Block block;
      block.address = address;
      block.size_bytes = end - address;
      block.stream = range.stream;
      block.pool = pool;
      block.reservation = reservation;
      block.mapped = mapped;
      const BlockIndex index = new_block(block);
      if (last != kNoBlock)
        insert_after(index, last);
      last = index;
      return index;
    };
    if (range.expandable) {
      for (uint32_t i = 0; i < reservations_.size(); ++i) {
        const Block& tail = blocks_[tails[i]];
        if (tail.pool == pool && tail.stream == range.stream &&
            range.address + range.size_bytes <= reservations_[i].base + reservations_[i].size_bytes)
          reservation = i;
      }
      if (reservation == kNoReservation) {
        const uint64_t page = range.small ? kSmallPageBytes : settings_.large_segment_bytes;
        const uint64_t extent = (total_bytes_ + total_bytes_ / 8 + page - 1) / page * page;
        reservation = static_cast<uint32_t>(reservations_.size());
        reservations_.push_back({range.address, extent, page, 0, true});
        tails.push_back(kNoBlock);
        ++segments_;
      } else {
        last = tails[reservation];
        const uint64_t end = blocks_[last].address + blocks_[last].size_bytes;
        if (end < range.address)
          put_unmapped(append(end, range.address, false));
      }
      reservations_[reservation].mapped_bytes += range.size_bytes;
    } else {
      ++segments_;
    }
    raise_reserved(range.size_bytes);
    uint64_t address = range.address;
    const uint64_t end = range.address + range.size_bytes;
    const auto append_free = [&](uint64_t to) {
      // Two ranges that were mapped one after the other may meet in one free block.
      const bool joins = last != kNoBlock && blocks_[last].state == State::free &&
                         blocks_[last].mapped &&
                         blocks_[last].address + blocks_[last].size_bytes == address;
      if (joins) {
        take_free(last);
        blocks_[last].size_bytes += to - address;
        put_free(last);
      } else {
        put_free(append(address, to, true));
      }
    };
    for (; at < blocks.size() && blocks[at].address < end; ++at) {
      const HeldBlock& given = blocks[at];
      if (given.address < address || given.address + given.size_bytes > end)
        continue; // in no range that is known
      if (address < given.address)
        append_free(given.address);
      const BlockIndex index = append(given.address, given.address + given.size_bytes, true);
      Block& block = blocks_[index];
      block.state = State::allocated;
      block.allocation = given.allocation;
      block.requested_bytes = given.requested_bytes;
      bytes_.allocated += given.size_bytes;
      bytes_.active += given.size_bytes;
      bytes_.requested += given.requested_bytes;
      held.push_back(index);
      address = given.address + given.size_bytes;
    }
    if (address < end)
      append_free(end);
    if (reservation != kNoReservation)
      tails[reservation] = last;
  }
  for (uint32_t i = 0; i < reservations_.size(); ++i) {
    const BlockIndex tail = tails[i];
    const uint64_t from = blocks_[tail].address + blocks_[tail].size_bytes;
    const uint64_t to = reservations_[i].base + reservations_[i].size_bytes;
    if (from >= to)
      continue;
    Block rest = blocks_[tail];
    rest.address = from;
    rest.size_bytes = to - from;
    rest.requested_bytes = 0;
    rest.allocation = kNoAllocation;
    rest.state = State::free;
    rest.mapped = false;
    rest.next = kNoBlock;
    const BlockIndex index = new_block(rest);
    insert_after(index, tail);
    put_unmapped(index);
  }
  return held;
}

std::string CachingAllocator::inconsistency() const {
  uint64_t mapped = 0, active = 0, listed = 0, free = 0;
  std::vector<bool> dropped(blocks_.size());
  for (const BlockIndex index : unused_)
    dropped[index] = true;
  for (BlockIndex index = 0; index < blocks_.size(); ++index) {
    if (dropped[index])
      continue;
    const Block& block = blocks_[index];
    if (block.size_bytes == 0)
      return "an empty block";
    mapped += block.mapped ? block.size_bytes : 0;
    active += block.state != State::free ? block.size_bytes : 0;
    free += block.state == State::free ? block.size_bytes : 0;
    if (block.next == kNoBlock)
      continue;
    const Block& next = blocks_[block.next];
    if (dropped[block.next] || next.previous != index)
      return "neighbours do not agree";
    if (block.address + block.size_bytes != next.address)
      return "neighbours do not touch";
    if (block.state == State::free && next.state == State::free && block.mapped == next.mapped)
      return "two free neighbours";
  }
  for (const Pool& pool : pools_)
    for (const auto* lists : {&pool.free, &pool.unmapped})
      for (const OrderedBlocks& blocks : *lists)
        blocks.for_each([&](const BlockKey& key) { listed += blocks_[key.block].size_bytes; });
  if (listed != free)
    return "the lists do not hold what is free";
  if (mapped != bytes_.reserved)
    return "mapped blocks do not sum to what is reserved";
  return active != bytes_.active ? "held blocks do not sum to what is active" : "";
}

} // namespace memtrace::replay
