#include "address_space.h"

#include <sys/mman.h>

#include <array>
#include <map>

namespace simcuda {
namespace {

// Far from where programs, libraries and sanitizers put theirs; only a wish, the kernel may refuse.
constexpr uintptr_t kWantedBase = uintptr_t{0x2000} << 32;
constexpr size_t kArenaBytes = size_t{1} << 40;
constexpr size_t kLeastArenaBytes = size_t{1} << 32;
constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// Maps inaccessible memory; nullptr if the kernel says no.
void* map_empty(uintptr_t at, size_t bytes, int extra_flags) {
  void* mapped = mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE, kFlags | extra_flags, -1, 0);
  if (mapped == MAP_FAILED)
    return nullptr;
  // One touched byte must not cost a huge page, and a core dump doesn't want device memory.
  madvise(mapped, bytes, MADV_NOHUGEPAGE);
  madvise(mapped, bytes, MADV_DONTDUMP);
  return mapped;
}

class Arena {
 public:
  uintptr_t reserve(uintptr_t wanted_base, size_t bytes) {
    if (!claimed_)
      claim(wanted_base);
    bytes = round_up(bytes ? bytes : 1, kPageBytes);
    for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
      auto [address, size] = *hole;
      if (size < bytes)
        continue;
      holes_.erase(hole);
      if (size > bytes)
        holes_[address + bytes] = size - bytes;
      reserved_[address] = bytes;
      return address;
    }
    return 0;
  }

  // False if the reservation isn't one of this arena.
  bool release(uintptr_t address) {
    auto found = reserved_.find(address);
    if (found == reserved_.end())
      return false;
    size_t bytes = found->second;
    reserved_.erase(found);
    take_memory_away(address, bytes);
    auto next = holes_.upper_bound(address);
    if (next != holes_.end() && next->first == address + bytes) {
      bytes += next->second;
      next = holes_.erase(next);
    }
    if (next != holes_.begin()) {
      auto before = std::prev(next);
      if (before->first + before->second == address) {
        before->second += bytes;
        return true;
      }
    }
    holes_[address] = bytes;
    return true;
  }

 private:
  void claim(uintptr_t wanted_base) {
    claimed_ = true;
    // Smaller each time it fails: a sandbox may limit the address space.
    for (size_t bytes = kArenaBytes; bytes >= kLeastArenaBytes; bytes /= 4) {
      void* at = map_empty(wanted_base, bytes, 0);
      if (!at)
        continue;
      uintptr_t base = round_up(reinterpret_cast<uintptr_t>(at), kPageBytes);
      holes_[base] = bytes - kPageBytes;
      return;
    }
  }

  std::map<uintptr_t, size_t> holes_;    // address -> bytes, never two adjacent ones
  std::map<uintptr_t, size_t> reserved_; // address -> bytes
  bool claimed_ = false;
};

std::array<Arena, kMaxDevices + 1>& arenas() {
  static auto* arenas = new std::array<Arena, kMaxDevices + 1>;
  return *arenas;
}

} // namespace

uintptr_t reserve_addresses_locked(int arena, size_t bytes) {
  return arenas()[arena].reserve(kWantedBase + arena * kArenaBytes, bytes);
}

void release_addresses_locked(uintptr_t address) {
  for (Arena& arena : arenas())
    if (arena.release(address))
      return;
}

bool back_with_memory(uintptr_t address, size_t bytes) {
  return mprotect(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE) == 0;
}

bool take_memory_away(uintptr_t address, size_t bytes) {
  // A fresh mapping over the old one: the kernel drops the pages, and the next use reads zeros.
  return map_empty(address, bytes, MAP_FIXED) != nullptr;
}

} // namespace simcuda
