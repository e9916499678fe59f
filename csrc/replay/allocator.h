// Torch's CUDA caching allocator of one device, as a value: the whole of it can be copied.
//
// It decides what torch's decides, from requests alone: which free block serves an allocation, when
// the driver is asked, when cached memory goes back to it, when an allocation fails. The rules are
// those of torch 2.11, each held by a test in tests/replay and all of them by tests/exact.
//
//     pool (default or private, small or large)
//       per stream: free blocks by (size, address); unmapped blocks by address
//     segment or reservation: | allocated | free | awaiting completion |  unmapped ...  |
//                              blocks, each with its neighbours
//
// Blocks are indices into one vector, so that a copy needs no pointers mended.
#pragma once

#include "analyse/allocator_settings.h"
#include "replay/driver.h"
#include "replay/ordered_blocks.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace memtrace::replay {

using BlockIndex = uint32_t;
constexpr BlockIndex kNoBlock = UINT32_MAX;
constexpr uint32_t kNoReservation = UINT32_MAX;
constexpr uint32_t kNoAllocation = UINT32_MAX;

enum class State : uint8_t { free, allocated, pending };

struct Block {
  uint64_t address = 0, size_bytes = 0;
  uint64_t requested_bytes = 0;
  int64_t searches_at_insert = 0; // of its pool: its age to garbage collection
  BlockIndex previous = kNoBlock, next = kNoBlock;
  uint32_t reservation = kNoReservation;
  uint32_t allocation = kNoAllocation; // the caller's number for what lives in it
  uint32_t pending_place = 0;
  uint16_t stream = 0, pool = 0;
  State state = State::free;
  bool mapped = true;
};

struct Bytes {
  uint64_t allocated = 0; // falls when a free is requested
  uint64_t active = 0;    // falls when it is completed, as does `requested`
  uint64_t reserved = 0;
  uint64_t requested = 0;
};

// What lay on the device when a recording began: a range held from the driver, and a block in it.
struct HeldRange {
  uint64_t address = 0, size_bytes = 0;
  uint16_t stream = 0, pool = 0;
  bool small = false, expandable = false;
};
struct HeldBlock {
  uint64_t address = 0, size_bytes = 0; // of the block
  uint64_t requested_bytes = 0;
  uint32_t allocation = 0;
};

class CachingAllocator {
 public:
  // `total_bytes` of the device: what fractions are of, and what a reservation's extent follows.
  CachingAllocator(const AllocatorSettings& settings, Driver driver, uint64_t total_bytes,
                   uint16_t streams, uint16_t pools);

  // The block, or kNoBlock when the allocation failed. `pool`: 0 is the default one.
  BlockIndex malloc(uint64_t size_bytes, uint16_t stream, uint16_t pool, uint32_t allocation);
  // Both do nothing for a block that is no longer the allocation's.
  void free_requested(BlockIndex index, uint32_t allocation);
  void free_completed(BlockIndex index, uint32_t allocation);

  void set_settings(const AllocatorSettings& settings) { settings_ = settings; }
  void set_memory_fraction(double fraction);
  void empty_cache() { release_cached(); }
  // While a capture, or the use of a memory pool, is under way.
  void begin_capture() { ++captures_; }
  void end_capture() { captures_ -= captures_ > 0 ? 1 : 0; }
  void ref_pool(uint16_t pool);
  void set_pool_rules(uint16_t pool, const PoolRules& rules);
  void unref_pool(uint16_t pool);
  // A MemPool has died: its use ends, and if nobody else uses it, its cached memory goes back.
  void destroy_pool(uint16_t pool);

  // Puts what was held into an allocator that is new. Ranges and blocks in order of address.
  // `place(allocation, block)` is told where each went.
  template <typename Place>
  void seed(std::span<const HeldRange> ranges, std::span<const HeldBlock> blocks, Place place) {
    for (const BlockIndex block : seed_ranges(ranges, blocks))
      place(blocks_[block].allocation, block);
  }

  const Bytes& bytes() const { return bytes_; }
  uint64_t peak_reserved_bytes() const { return peak_reserved_bytes_; }
  uint64_t retries() const { return retries_; }
  size_t segments() const { return segments_; }
  size_t pending() const { return pending_.size(); }
  uint64_t largest_free_bytes() const;
  const Block& block(BlockIndex index) const { return blocks_[index]; }
  Driver& driver() { return driver_; }
  const Driver& driver() const { return driver_; }

  // For tests: every chain of neighbours adds up, and lists hold what is free. Empty: it does.
  std::string_view inconsistency() const;

 private:
  friend class Seeder;
  struct Pool {
    std::vector<OrderedBlocks> free, unmapped; // by stream
    int64_t searches = 0;                      // counted while garbage collection is armed
    bool small = false;
    PoolRules rules;
  };
  struct Reservation {
    uint64_t base, size_bytes, page_bytes;
    uint64_t mapped_bytes;
    bool exists;
  };

  // allocator.cpp
  BlockIndex new_block(const Block& block);
  void drop_block(BlockIndex index);
  void insert_before(BlockIndex added, BlockIndex block);
  void insert_after(BlockIndex added, BlockIndex block);
  void put_free(BlockIndex index);
  void take_free(BlockIndex index);
  void put_unmapped(BlockIndex index);
  void take_unmapped(BlockIndex index);
  void merge(BlockIndex into, BlockIndex from);
  void complete(BlockIndex index);
  void complete_all(std::optional<uint16_t> pool);
  void raise_reserved(uint64_t bytes);
  bool collects() const { return allowed_bytes_ && settings_.garbage_collection_threshold > 0; }
  static bool whole(const Block& block) {
    return block.previous == kNoBlock && block.next == kNoBlock;
  }
  BlockIndex best_fit(uint16_t pool, uint16_t stream, uint64_t bytes);
  BlockIndex from_driver(uint16_t pool, uint16_t stream, uint64_t rounded_bytes);

  // expandable.cpp
  uint64_t room(const Block& block) const;
  BlockIndex expand(uint16_t pool, uint16_t stream, uint64_t bytes);
  BlockIndex find_expandable(uint16_t pool, uint16_t stream, uint64_t bytes) const;
  BlockIndex reserve(uint16_t pool, uint16_t stream);
  bool map(BlockIndex index, uint64_t bytes);
  void unmap(BlockIndex index);

  // release.cpp
  void release(BlockIndex index);
  void release_free(uint16_t pool);
  void release_cached();
  bool release_oversize(uint16_t pool, uint16_t stream, uint64_t rounded_bytes);
  void collect_garbage();

  // consistency.cpp
  static std::string_view discord(const Block& block, const Block& next);

  // seed.cpp
  std::vector<BlockIndex> seed_ranges(std::span<const HeldRange> ranges,
                                      std::span<const HeldBlock> blocks);

  AllocatorSettings settings_;
  Driver driver_;
  uint64_t total_bytes_;
  std::optional<uint64_t> allowed_bytes_; // by the memory fraction
  std::vector<Block> blocks_;
  std::vector<BlockIndex> unused_; // places in blocks_
  std::vector<Pool> pools_;        // 2 * pool + (large ? 1 : 0)
  std::vector<int64_t> uses_;      // of each private pool
  std::vector<uint16_t> used_;     // private pools, in the order of their first use
  std::vector<Reservation> reservations_;
  std::vector<BlockIndex> pending_; // frees that are requested and not completed
  int64_t captures_ = 0;
  Bytes bytes_;
  uint64_t peak_reserved_bytes_ = 0;
  uint64_t retries_ = 0;
  size_t segments_ = 0;
};

} // namespace memtrace::replay
