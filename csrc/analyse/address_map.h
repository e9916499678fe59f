// address -> value: open addressing with linear probing, no tombstones.
//
// Made for live sets: an insert and an erase per allocation. Address 0 is no key. Values are small
// and trivially copyable; pointers to them do not survive an insert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace memtrace {

template <typename Value> class AddressMap {
 public:
  AddressMap() : slots_(kLeast) {}

  Value* find(uint64_t address) {
    for (size_t at = home(address); slots_[at].address != 0; at = (at + 1) & mask())
      if (slots_[at].address == address)
        return &slots_[at].value;
    return nullptr;
  }

  // Replaces what the address held.
  void insert(uint64_t address, Value value) {
    if (address == 0)
      return;
    if ((size_ + 1) * 2 > slots_.size())
      grow();
    size_t at = home(address);
    while (slots_[at].address != 0 && slots_[at].address != address)
      at = (at + 1) & mask();
    size_ += slots_[at].address == 0;
    slots_[at] = {address, value};
  }

  void erase(uint64_t address) {
    size_t at = home(address);
    while (slots_[at].address != address) {
      if (slots_[at].address == 0)
        return;
      at = (at + 1) & mask();
    }
    --size_;
    // Close the gap: move up what probed past it.
    for (size_t next = (at + 1) & mask(); slots_[next].address != 0; next = (next + 1) & mask()) {
      const size_t distance = (next - home(slots_[next].address)) & mask();
      if (distance >= ((next - at) & mask())) {
        slots_[at] = slots_[next];
        at = next;
      }
    }
    slots_[at] = {};
  }

  size_t size() const { return size_; }

 private:
  static constexpr size_t kLeast = 64;
  struct Slot {
    uint64_t address = 0;
    Value value{};
  };

  size_t mask() const { return slots_.size() - 1; }
  size_t home(uint64_t address) const {
    // Fibonacci hashing: addresses differ in their middle bits.
    return (address * 0x9e3779b97f4a7c15ULL >> 20) & mask();
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    std::swap(old, slots_);
    size_ = 0;
    for (const Slot& slot : old)
      if (slot.address != 0)
        insert(slot.address, slot.value);
  }

  std::vector<Slot> slots_;
  size_t size_ = 0;
};

} // namespace memtrace
