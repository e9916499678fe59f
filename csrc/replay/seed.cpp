// An allocator that begins with what lay on the device.
#include "replay/allocator.h"

namespace memtrace::replay {

class Seeder {
 public:
  explicit Seeder(CachingAllocator& allocator) : allocator_(allocator) {}

  std::vector<BlockIndex> seed(std::span<const HeldRange> ranges,
                               std::span<const HeldBlock> blocks) {
    uint64_t end = 0; // of the range before
    for (const HeldRange& range : ranges) {
      // A range within another is damage: the chains of both would hold the same addresses.
      if (range.size_bytes == 0 || range.address < end ||
          range.size_bytes > UINT64_MAX - range.address)
        continue;
      begin(range);
      end = range.address + range.size_bytes;
      while (!blocks.empty() && blocks.front().address < end) {
        hold(blocks.front(), end);
        blocks = blocks.subspan(1);
      }
      add_free(end);
      if (made_.reservation != kNoReservation)
        tails_[made_.reservation] = last_;
    }
    for (uint32_t i = 0; i < tails_.size(); ++i)
      close(i);
    return std::move(held_);
  }

 private:
  Block& block(BlockIndex index) { return allocator_.blocks_[index]; }
  uint64_t end_of(BlockIndex index) { return block(index).address + block(index).size_bytes; }

  // What is appended from now on lies in this range.
  void begin(const HeldRange& range) {
    made_ = {};
    made_.stream = range.stream;
    made_.pool = static_cast<uint16_t>(2 * range.pool + (range.small ? 0 : 1));
    last_ = kNoBlock;
    address_ = range.address;
    allocator_.raise_reserved(range.size_bytes);
    if (!range.expandable) {
      ++allocator_.segments_;
      return;
    }
    made_.reservation = reservation_of(range);
    allocator_.reservations_[made_.reservation].mapped_bytes += range.size_bytes;
    last_ = tails_[made_.reservation];
    if (last_ == kNoBlock || end_of(last_) >= range.address)
      return;
    address_ = end_of(last_);
    allocator_.put_unmapped(append(range.address, false));
  }

  // One that exists, or a new one: its base is taken to be where its first range lies.
  uint32_t reservation_of(const HeldRange& range) {
    auto& reservations = allocator_.reservations_;
    for (uint32_t i = 0; i < tails_.size(); ++i)
      if (block(tails_[i]).pool == made_.pool && block(tails_[i]).stream == made_.stream &&
          range.address + range.size_bytes <= reservations[i].base + reservations[i].size_bytes)
        return i;
    const uint64_t total = allocator_.total_bytes_;
    const uint64_t page = range.small ? kSmallPageBytes : allocator_.settings_.large_segment_bytes;
    const uint64_t extent = (total + total / 8 + page - 1) / page * page;
    reservations.push_back({range.address, extent, page, 0, true});
    tails_.push_back(kNoBlock);
    ++allocator_.segments_;
    return static_cast<uint32_t>(tails_.size() - 1);
  }

  BlockIndex append(uint64_t end, bool mapped) {
    made_.address = address_;
    made_.size_bytes = end - address_;
    made_.mapped = mapped;
    const BlockIndex index = allocator_.new_block(made_);
    if (last_ != kNoBlock)
      allocator_.insert_after(index, last_);
    last_ = index;
    address_ = end;
    return index;
  }

  void add_free(uint64_t end) {
    if (address_ >= end)
      return;
    // Two ranges that were mapped one after the other may meet in one free block.
    if (last_ != kNoBlock && block(last_).state == State::free && block(last_).mapped &&
        end_of(last_) == address_) {
      allocator_.take_free(last_);
      block(last_).size_bytes += end - address_;
      address_ = end;
      allocator_.put_free(last_);
      return;
    }
    allocator_.put_free(append(end, true));
  }

  void hold(const HeldBlock& given, uint64_t end) {
    if (given.size_bytes == 0 || given.address < address_ || given.address >= end ||
        given.size_bytes > end - given.address)
      return; // in no range that is known
    add_free(given.address);
    const BlockIndex index = append(given.address + given.size_bytes, true);
    block(index).state = State::allocated;
    block(index).allocation = given.allocation;
    block(index).requested_bytes = given.requested_bytes;
    allocator_.bytes_.allocated += given.size_bytes;
    allocator_.bytes_.active += given.size_bytes;
    allocator_.bytes_.requested += given.requested_bytes;
    held_.push_back(index);
  }

  // What a reservation has left is unmapped.
  void close(uint32_t number) {
    const auto& reservation = allocator_.reservations_[number];
    const uint64_t end = reservation.base + reservation.size_bytes;
    last_ = tails_[number];
    made_ = {};
    made_.stream = block(last_).stream;
    made_.pool = block(last_).pool;
    made_.reservation = number;
    address_ = end_of(last_);
    if (address_ < end)
      allocator_.put_unmapped(append(end, false));
  }

  CachingAllocator& allocator_;
  std::vector<BlockIndex> held_;
  std::vector<BlockIndex> tails_; // of each reservation: its last block so far
  Block made_;                    // what new blocks have in common
  BlockIndex last_ = kNoBlock;    // of the chain of neighbours
  uint64_t address_ = 0;          // up to here the range is made
};

std::vector<BlockIndex> CachingAllocator::seed_ranges(std::span<const HeldRange> ranges,
                                                      std::span<const HeldBlock> blocks) {
  return Seeder(*this).seed(ranges, blocks);
}

} // namespace memtrace::replay
