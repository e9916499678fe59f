// One allocation from its birth to its release, as a row of `allocations` in the making.
#pragma once

#include "analyse/columns.h"
#include "record/event.h"

#include <cstdint>
#include <deque>
#include <vector>

namespace memtrace {

enum class Origin : uint8_t { recorded, preexisting, external };

// In the order that decides where two fit (FORMAT.md). Which one an allocation has is for
// src/memtrace/attribute/; here is only what the user said.
enum class Category : uint8_t {
  weight,
  buffer,
  gradient,
  optimizer_state,
  kv_cache,
  input,
  output,
  activation,
  workspace,
  temporary,
  other,
  none
};

enum class Phase : uint8_t { forward, backward, optimizer, other };

struct Allocation {
  int64_t id = 0;
  uint64_t address = 0;
  int64_t size_bytes = 0, block_bytes = 0;
  int64_t resident_bytes = kNull;
  int64_t alloc_seq = 0, alloc_time_ns = 0;
  int64_t free_seq = kNull, free_time_ns = kNull;
  int64_t release_seq = kNull, release_time_ns = kNull;
  int64_t stream = kNull; // the bits of an unsigned handle
  int64_t segment_id = kNull;
  int64_t call_id = kNull;
  int64_t step = kNull;
  int64_t forward_call_id = kNull;
  uint32_t thread = 0, free_thread = 0;
  uint32_t stack = 0;
  StringId pool{}, op{}, top_op{}, forward_op{}, stage{}, label{};
  StringId module{}, module_class{}, source{};
  bool labelled = false;  // the label is the user's, not a tensor's name
  bool named = false;     // TensorNotes keeps its names
  bool was_there = false; // from the first event on, though it was found later
  DeviceCode device = kCpu;
  Memory memory = Memory::device;
  Origin origin = Origin::recorded;
  Phase phase = Phase::other;
  Category label_category = Category::none; // that the user gave it
  uint32_t owner = 0;                       // who is told of it: AllocationWatch's own number
};

// Where live allocations lie: numbered places that are used again. Number 0 is nobody.
class AllocationPool {
 public:
  AllocationPool() : places_(1) {}

  uint32_t take(const Allocation& allocation) {
    if (free_.empty()) {
      places_.push_back(allocation);
      return static_cast<uint32_t>(places_.size() - 1);
    }
    const uint32_t holder = free_.back();
    free_.pop_back();
    places_[holder] = allocation;
    return holder;
  }
  void give_back(uint32_t holder) {
    places_[holder].id = 0;
    free_.push_back(holder);
  }
  Allocation& operator[](uint32_t holder) { return places_[holder]; }
  // All that are live, in no order.
  template <typename Visit> void each(Visit visit) {
    for (uint32_t holder = 1; holder < places_.size(); ++holder)
      if (places_[holder].id != 0)
        visit(holder, places_[holder]);
  }

 private:
  std::deque<Allocation> places_;
  std::vector<uint32_t> free_;
};

} // namespace memtrace
