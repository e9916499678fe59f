// Free blocks of one stream in the allocator's order: by size, then address.
//
// A sorted sequence in short sorted pieces, so that an insertion moves few entries and a copy is a
// plain copy:
//
//     pieces: [512@a 512@c 1024@b] [2048@d 4096@e] ...     each at most kMost entries, none empty
//
// Cursors are places, not pointers: any change makes them stale.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace memtrace::replay {

struct BlockKey {
  uint64_t size_bytes = 0; // 0 where only the address orders
  uint64_t address = 0;
  uint32_t block = 0;

  auto operator<=>(const BlockKey&) const = default;
};

class OrderedBlocks {
 public:
  struct Cursor {
    size_t piece = 0, entry = 0;
  };

  bool empty() const { return pieces_.empty(); }

  // The first that is not below (size, address).
  Cursor lower_bound(uint64_t size_bytes, uint64_t address = 0) const {
    const BlockKey key{size_bytes, address, 0};
    const size_t piece = piece_of(key);
    if (piece == pieces_.size())
      return {piece, 0};
    const Piece& found = pieces_[piece];
    const auto at = std::ranges::lower_bound(found, key);
    return {piece, static_cast<size_t>(at - found.begin())};
  }
  bool at_end(Cursor at) const { return at.piece == pieces_.size(); }
  const BlockKey& operator[](Cursor at) const { return pieces_[at.piece][at.entry]; }
  Cursor next(Cursor at) const {
    if (++at.entry == pieces_[at.piece].size())
      at = {at.piece + 1, 0};
    return at;
  }
  // False at the first one.
  bool step_back(Cursor& at) const {
    if (at.entry == 0) {
      if (at.piece == 0)
        return false;
      --at.piece;
      at.entry = pieces_[at.piece].size();
    }
    --at.entry;
    return true;
  }
  const BlockKey* last() const { return pieces_.empty() ? nullptr : &pieces_.back().back(); }

  void insert(const BlockKey& key) {
    if (pieces_.empty())
      pieces_.emplace_back().reserve(kMost);
    const size_t piece = std::min(piece_of(key), pieces_.size() - 1);
    Piece& found = pieces_[piece];
    found.insert(std::ranges::lower_bound(found, key), key);
    if (found.size() == kMost)
      halve(piece);
  }

  void erase(const BlockKey& key) {
    const size_t piece = piece_of(key);
    Piece& found = pieces_[piece];
    found.erase(std::ranges::lower_bound(found, key));
    if (found.empty())
      pieces_.erase(pieces_.begin() + static_cast<std::ptrdiff_t>(piece));
  }

  template <typename Visit> void for_each(Visit visit) const {
    for (const Piece& piece : pieces_)
      for (const BlockKey& key : piece)
        visit(key);
  }

 private:
  static constexpr size_t kMost = 128;
  using Piece = std::vector<BlockKey>;

  // The first piece whose last entry is not below the key.
  size_t piece_of(const BlockKey& key) const {
    const auto at =
        std::ranges::partition_point(pieces_, [&](const Piece& p) { return p.back() < key; });
    return static_cast<size_t>(at - pieces_.begin());
  }

  void halve(size_t piece) {
    Piece upper;
    upper.reserve(kMost);
    Piece& lower = pieces_[piece];
    const auto middle = lower.begin() + kMost / 2;
    upper.assign(middle, lower.end());
    lower.erase(middle, lower.end());
    pieces_.insert(pieces_.begin() + static_cast<std::ptrdiff_t>(piece) + 1, std::move(upper));
  }

  std::vector<Piece> pieces_;
};

} // namespace memtrace::replay
