// From the hash of something seen before to its id: lookups without a lock, insertions under one.
//
// An entry is 64 bits of key and 32 more of an independent hash, checked on every hit: two
// different stacks would have to agree in 96 bits. Bounded: at kMaxSlots it is emptied, and what is
// still in use comes back through the slow path with the same ids. Tables it has grown out of are
// kept for readers that are still in them; together they are smaller than the one in use.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace memtrace {

struct StackHash {
  uint64_t key;
  uint64_t check;
};

class StackCache {
 public:
  StackCache() { table_.store(add_table(kFirstSlots), std::memory_order_relaxed); }

  // 0: not there.
  uint32_t find(StackHash hash) const noexcept {
    const Table* table = table_.load(std::memory_order_acquire);
    const uint64_t key = hash.key | 1; // 0 is an empty slot
    const uint32_t check = check_of(hash);
    uint64_t place = spread(key);
    for (uint32_t probe = 0; probe < kMaxProbes; ++probe, ++place) {
      const Slot& slot = table->slots[place & table->mask];
      const uint64_t found = slot.key.load(std::memory_order_acquire);
      if (found == key) {
        // The slot may be emptied and filled again meanwhile: the check tells.
        const uint64_t value = slot.value.load(std::memory_order_relaxed);
        if (value >> 32 == check)
          return static_cast<uint32_t>(value);
      }
      if (found == 0)
        return 0;
    }
    return 0;
  }

  // Under the owner's lock. The id must not be 0. Throws std::bad_alloc.
  void insert(StackHash hash, uint32_t id) {
    if (count_ * 2 >= (table_.load(std::memory_order_relaxed)->mask + 1) || !place(hash, id)) {
      grow_or_empty();
      if (!place(hash, id))
        return; // it will be seen for the first time again: slow, not wrong
    }
    ++count_;
  }

  static constexpr uint64_t kFirstSlots = 1U << 11;
  static constexpr uint64_t kMaxSlots = 1U << 18; // 4 MiB

 private:
  static constexpr uint32_t kMaxProbes = 64;
  struct Slot {
    std::atomic<uint64_t> key{0};
    std::atomic<uint64_t> value{0}; // check << 32 | id
  };
  struct Table {
    uint64_t mask;
    std::unique_ptr<Slot[]> slots;
  };

  static uint32_t check_of(StackHash hash) noexcept {
    return static_cast<uint32_t>((hash.check ^ hash.check >> 32) * 0xFF51AFD7ED558CCDULL >> 32);
  }
  static uint64_t spread(uint64_t key) noexcept {
    return (key ^ key >> 32) * 0x9E3779B97F4A7C15ULL >> 40;
  }

  bool place(StackHash hash, uint32_t id) noexcept {
    Table& table = *table_.load(std::memory_order_relaxed);
    const uint64_t key = hash.key | 1;
    return place_in(table, spread(key), key, static_cast<uint64_t>(check_of(hash)) << 32 | id);
  }
  static bool place_in(Table& table, uint64_t place, uint64_t key, uint64_t value) noexcept {
    for (uint32_t probe = 0; probe < kMaxProbes; ++probe, ++place) {
      Slot& slot = table.slots[place & table.mask];
      if (slot.key.load(std::memory_order_relaxed) != 0)
        continue;
      slot.value.store(value, std::memory_order_relaxed);
      slot.key.store(key, std::memory_order_release);
      return true;
    }
    return false;
  }

  void grow_or_empty() {
    Table& old = *table_.load(std::memory_order_relaxed);
    const uint64_t slots = old.mask + 1;
    if (slots == kMaxSlots) {
      for (uint64_t i = 0; i < slots; ++i)
        old.slots[i].key.store(0, std::memory_order_release);
      count_ = 0;
      return;
    }
    Table* larger = add_table(slots * 2);
    for (uint64_t i = 0; i < slots; ++i) {
      const uint64_t key = old.slots[i].key.load(std::memory_order_relaxed);
      if (key != 0)
        place_in(*larger, spread(key), key, old.slots[i].value.load(std::memory_order_relaxed));
    }
    table_.store(larger, std::memory_order_release);
  }

  Table* add_table(uint64_t slots) {
    tables_.push_back(std::make_unique<Table>(Table{slots - 1, std::make_unique<Slot[]>(slots)}));
    return tables_.back().get();
  }

  std::atomic<Table*> table_{nullptr};
  uint64_t count_ = 0;
  std::vector<std::unique_ptr<Table>> tables_;
};

} // namespace memtrace
