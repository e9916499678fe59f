#include "analyse/block_mirror.h"

#include <algorithm>
#include <iterator>

namespace memtrace {
namespace {

// Blocks in addresses that no segment is known for: they merge with nothing.
constexpr uint64_t kNoOwner = 0;

uint64_t end_of(BlockMirror::Blocks::const_iterator at) {
  return at->first + at->second.size_bytes;
}

bool merges(BlockMirror::Blocks::const_iterator before, BlockMirror::Blocks::const_iterator after) {
  return before->second.state == BlockState::free && after->second.state == BlockState::free &&
         before->second.owner == after->second.owner && before->second.owner != kNoOwner &&
         end_of(before) == after->first;
}

} // namespace

BlockMirror::Blocks::iterator BlockMirror::insert(Blocks::iterator hint, uint64_t address,
                                                  const Block& block) {
  const auto at = blocks_.emplace_hint(hint, address, block);
  index_.insert(address, at);
  return at;
}

BlockMirror::Blocks::iterator BlockMirror::erase(Blocks::iterator at) {
  index_.erase(at->first);
  return blocks_.erase(at);
}

BlockMirror::Blocks::iterator BlockMirror::find_containing(uint64_t address) {
  const auto after = blocks_.upper_bound(address);
  if (after == blocks_.begin())
    return blocks_.end();
  const auto at = std::prev(after);
  return address < end_of(at) ? at : blocks_.end();
}

BlockMirror::Blocks::iterator BlockMirror::carve(Blocks::iterator at, uint64_t address,
                                                 uint64_t size_bytes) {
  if (at->first < address) {
    Block rest = at->second;
    rest.size_bytes = end_of(at) - address;
    at->second.size_bytes = address - at->first;
    at = insert(std::next(at), address, rest);
  }
  if (at->second.size_bytes > size_bytes) {
    Block rest = at->second;
    rest.size_bytes -= size_bytes;
    at->second.size_bytes = size_bytes;
    insert(std::next(at), address + size_bytes, rest);
  }
  return at;
}

void BlockMirror::merge(Blocks::iterator at) {
  if (const auto after = std::next(at); after != blocks_.end() && merges(at, after)) {
    at->second.size_bytes += after->second.size_bytes;
    erase(after);
  }
  if (at == blocks_.begin())
    return;
  if (const auto before = std::prev(at); merges(before, at)) {
    before->second.size_bytes += at->second.size_bytes;
    erase(at);
  }
}

void BlockMirror::raise_peak() {
  peak_.allocated = std::max(peak_.allocated, bytes_.allocated);
  peak_.active = std::max(peak_.active, bytes_.active);
  peak_.reserved = std::max(peak_.reserved, bytes_.reserved);
  peak_.requested = std::max(peak_.requested, bytes_.requested);
}

void BlockMirror::hold(Block& block, uint64_t size_bytes, uint32_t holder) {
  block.state = BlockState::allocated;
  block.requested_bytes = size_bytes;
  block.holder = holder;
  bytes_.allocated += static_cast<int64_t>(block.size_bytes);
  bytes_.active += static_cast<int64_t>(block.size_bytes);
  bytes_.requested += static_cast<int64_t>(size_bytes);
  raise_peak();
}

// The free block that starts at the address and has room. Where the mirror knows of none, the
// recorded fact wins: room is made of whatever is free there.
BlockMirror::Blocks::iterator BlockMirror::free_block_for(uint64_t address, uint64_t size_bytes) {
  if (const auto* found = index_.find(address)) {
    const Block& block = (*found)->second;
    if (block.state == BlockState::free && block.size_bytes >= size_bytes)
      return *found;
  }
  const auto at = find_containing(address);
  const bool segment_is_told = at != blocks_.end() || !settings_.blocks_only;
  inconsistencies_ += segment_is_told ? 1 : 0;
  if (at != blocks_.end() && at->second.state == BlockState::free) {
    const uint64_t room = end_of(at) - address;
    return carve(at, address, std::max(std::min(room, size_bytes), uint64_t{1}));
  }
  // Not memory that we know of. Its size ends where the next known block begins.
  const auto after = blocks_.lower_bound(address + 1);
  uint64_t room = size_bytes;
  if (after != blocks_.end())
    room = std::min(room, after->first - address);
  if (at == blocks_.end())
    return insert(after, address, {room, kNoOwner});
  // Inside a block that is held: cut that one short, so that no byte is held twice.
  const uint64_t cut = end_of(at) - address;
  bytes_.active -= static_cast<int64_t>(cut);
  if (at->second.state == BlockState::allocated)
    bytes_.allocated -= static_cast<int64_t>(cut);
  at->second.size_bytes -= cut;
  return insert(after, address, {std::min(room, cut), at->second.owner});
}

void BlockMirror::tell_reserved(int64_t bytes) {
  bytes_.reserved = bytes;
  raise_peak();
}

Block& BlockMirror::alloc(uint64_t address, uint64_t size_bytes, uint32_t holder,
                          const PoolRules& pool) {
  const uint64_t rounded = settings_.round(size_bytes);
  auto at = free_block_for(address, rounded);
  if (at->second.size_bytes > rounded && settings_.splits(at->second.size_bytes, rounded, pool))
    at = carve(at, address, rounded);
  hold(at->second, size_bytes, holder);
  return at->second;
}

Block& BlockMirror::preexisting(uint64_t address, uint64_t size_bytes, uint64_t block_bytes,
                                uint32_t holder) {
  if (block_bytes == 0)
    block_bytes = settings_.round(size_bytes);
  auto at = find_containing(address);
  if (at != blocks_.end() && at->second.state == BlockState::free &&
      end_of(at) - address >= block_bytes)
    at = carve(at, address, block_bytes);
  else
    at = free_block_for(address, block_bytes);
  hold(at->second, size_bytes, holder);
  return at->second;
}

Block* BlockMirror::live(uint64_t address) {
  const auto* found = index_.find(address);
  if (!found || (*found)->second.state == BlockState::free)
    return nullptr;
  return &(*found)->second;
}

void BlockMirror::free_requested(Block& block) {
  if (block.state != BlockState::allocated)
    return;
  block.state = BlockState::pending;
  bytes_.allocated -= static_cast<int64_t>(block.size_bytes);
}

void BlockMirror::free_completed(uint64_t address) {
  const auto* found = index_.find(address);
  if (!found || (*found)->second.state == BlockState::free)
    return;
  const auto at = *found;
  Block& block = at->second;
  free_requested(block); // when only the completion was recorded
  block.state = BlockState::free;
  bytes_.active -= static_cast<int64_t>(block.size_bytes);
  bytes_.requested -= static_cast<int64_t>(block.requested_bytes);
  block.requested_bytes = 0;
  block.holder = kNobody;
  if (block.owner == kNoOwner)
    erase(at);
  else
    merge(at);
}

bool BlockMirror::overlaps(uint64_t address, uint64_t size_bytes) {
  const auto at = blocks_.lower_bound(address);
  return (at != blocks_.end() && at->first - address < size_bytes) ||
         find_containing(address) != blocks_.end();
}

void BlockMirror::add_range(uint64_t address, uint64_t size_bytes, uint64_t stream, uint16_t pool,
                            bool expandable, Place place, std::vector<uint32_t>& lost) {
  if (overlaps(address, size_bytes)) { // the range came before, and its going was missed
    ++inconsistencies_;
    remove_range(address, size_bytes, place, lost);
  }
  const SegmentRange& range =
      segments_.add(address, size_bytes, stream, pool, expandable, settings_, place);
  const auto at = insert(blocks_.lower_bound(address), address, {size_bytes, range.owner});
  bytes_.reserved += static_cast<int64_t>(size_bytes);
  raise_peak();
  merge(at);
}

void BlockMirror::remove_range(uint64_t address, uint64_t size_bytes, Place place,
                               std::vector<uint32_t>& lost) {
  auto at = find_containing(address);
  if (at == blocks_.end())
    at = blocks_.lower_bound(address);
  const uint64_t end = address + size_bytes;
  uint64_t covered = 0;
  while (at != blocks_.end() && at->first < end) {
    if (at->second.state != BlockState::free) { // its free was missed
      ++inconsistencies_;
      if (at->second.holder != kNobody)
        lost.push_back(at->second.holder);
      free_requested(at->second);
      bytes_.active -= static_cast<int64_t>(at->second.size_bytes);
      bytes_.requested -= static_cast<int64_t>(at->second.requested_bytes);
      at->second = {at->second.size_bytes, at->second.owner};
    }
    const uint64_t from = std::max(at->first, address), to = std::min(end_of(at), end);
    covered += to - from;
    at = erase(carve(at, from, to - from));
  }
  const uint64_t held = segments_.remove(address, size_bytes, place);
  if (covered != size_bytes || held != size_bytes)
    ++inconsistencies_;
  bytes_.reserved -= static_cast<int64_t>(held);
}

} // namespace memtrace
