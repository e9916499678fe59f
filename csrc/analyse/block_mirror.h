// A mirror of the blocks of one CUDA device's caching allocator, kept from its events.
//
// The tracker tells requested sizes; what the allocator really holds for them follows from its own
// rules of rounding, splitting and merging, which this class repeats:
//
//     segment  | alloc 512 K | pending 1 M |        free 18.5 M         |
//               ^ address of the block, found by hash; neighbours by the ordered map
//
// An event that contradicts the mirror (lost events, a recording begun in mid-run) is counted, and
// the mirror is bent so that the recorded facts hold. It never fails.
#pragma once

#include "analyse/address_map.h"
#include "analyse/allocator_settings.h"
#include "analyse/segments.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace memtrace {

struct DeviceBytes {
  int64_t allocated = 0; // falls when a free is requested
  int64_t active = 0;    // falls when it is completed
  int64_t reserved = 0;
  int64_t requested = 0; // of active blocks
};

enum class BlockState : uint8_t { free, allocated, pending };

struct Block {
  uint64_t size_bytes = 0;
  uint64_t owner = 0; // of its segment or reservation
  uint64_t requested_bytes = 0;
  uint32_t holder = 0; // the caller's number for what lives in it
  BlockState state = BlockState::free;
};

class BlockMirror {
 public:
  using Blocks = std::map<uint64_t, Block>;
  static constexpr uint32_t kNobody = 0;

  Segments& segments() { return segments_; }
  const Segments& segments() const { return segments_; }
  void set_settings(const AllocatorSettings& settings) { settings_ = settings; }

  // Each returns the block concerned. An allocation at an address that is still held means that its
  // free was missed: ask live() first and release() it.
  Block& alloc(uint64_t address, uint64_t size_bytes, uint32_t holder, const PoolRules& pool = {});
  Block& preexisting(uint64_t address, uint64_t size_bytes, uint64_t block_bytes, uint32_t holder);
  // The block that is held at the address, or null.
  Block* live(uint64_t address);
  void free_requested(Block& block);
  void free_completed(uint64_t address);

  // A range comes from the driver, or goes back to it. Holders of blocks that were still held in a
  // range that goes (or that comes a second time) are put into `lost`: their frees were missed.
  void add_range(uint64_t address, uint64_t size_bytes, uint64_t stream, uint16_t pool,
                 bool expandable, Place place, std::vector<uint32_t>& lost);
  void remove_range(uint64_t address, uint64_t size_bytes, Place place,
                    std::vector<uint32_t>& lost);

  // What the device holds of the driver's memory, where no event tells of ranges.
  void tell_reserved(int64_t bytes);

  const DeviceBytes& bytes() const { return bytes_; }
  const DeviceBytes& peak() const { return peak_; }
  void reset_peak() { peak_ = bytes_; }
  uint64_t inconsistencies() const { return inconsistencies_; }
  const Blocks& blocks() const { return blocks_; }

 private:
  Blocks::iterator find_containing(uint64_t address);
  Blocks::iterator insert(Blocks::iterator hint, uint64_t address, const Block& block);
  Blocks::iterator erase(Blocks::iterator at);
  // Makes the free block at `at` begin at `address` and be `size_bytes` long; the rests stay free.
  Blocks::iterator carve(Blocks::iterator at, uint64_t address, uint64_t size_bytes);
  void merge(Blocks::iterator at);
  void hold(Block& block, uint64_t size_bytes, uint32_t holder);
  Blocks::iterator free_block_for(uint64_t address, uint64_t size_bytes);
  bool overlaps(uint64_t address, uint64_t size_bytes);
  void raise_peak();

  AllocatorSettings settings_;
  Segments segments_;
  Blocks blocks_;
  AddressMap<Blocks::iterator> index_;
  DeviceBytes bytes_, peak_;
  uint64_t inconsistencies_ = 0;
};

} // namespace memtrace
