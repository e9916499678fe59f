// The addresses that a pause has told the end of: each is told of once, however often memory of the
// pause itself comes and goes there.
//
// A set that only grows, until the next pause. Used under the lock of one CUDA device; growing it
// asks for memory there, as the allocator itself does.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>

namespace memtrace {

class EndedAddresses {
 public:
  EndedAddresses() = default;
  ~EndedAddresses() { delete[] places_; }
  EndedAddresses(const EndedAddresses&) = delete;
  EndedAddresses& operator=(const EndedAddresses&) = delete;

  // Whether it was not there yet; not 0. Without memory nothing is remembered: true once more.
  bool insert(uint64_t address) noexcept {
    uint64_t* const place = place_of(address);
    if (*place == address) [[likely]]
      return false;
    return add(place, address);
  }
  // Before the first insert(). False: there is no memory.
  bool clear() noexcept {
    std::fill_n(places_, capacity_, uint64_t{0});
    count_ = 0;
    return places_ != nullptr || grow();
  }

 private:
  static constexpr size_t kFirstCapacity = 1024;

  // Where it is, or the free place for it.
  uint64_t* place_of(uint64_t address) const noexcept {
    const size_t mask = capacity_ - 1;
    size_t at = (address * 0x9e3779b97f4a7c15ULL) >> shift_;
    while (places_[at] != 0 && places_[at] != address)
      at = (at + 1) & mask;
    return places_ + at;
  }

  [[gnu::noinline]] bool add(uint64_t* place, uint64_t address) noexcept {
    if (2 * count_ >= capacity_) {
      if (!grow())
        return true;
      place = place_of(address);
    }
    *place = address;
    ++count_;
    return true;
  }

  bool grow() noexcept {
    const size_t capacity = std::max(2 * capacity_, kFirstCapacity);
    auto* const places = new (std::nothrow) uint64_t[capacity]{};
    if (!places)
      return false;
    const uint64_t* const old = places_;
    const size_t old_capacity = capacity_;
    places_ = places;
    capacity_ = capacity;
    shift_ = 64 - std::countr_zero(capacity);
    for (size_t i = 0; i < old_capacity; ++i)
      if (old[i] != 0)
        *place_of(old[i]) = old[i];
    delete[] old;
    return true;
  }

  uint64_t* places_ = nullptr;
  size_t capacity_ = 0, count_ = 0; // a power of two
  int shift_ = 0;
};

} // namespace memtrace
