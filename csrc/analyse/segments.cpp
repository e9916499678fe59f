#include "analyse/segments.h"

#include <algorithm>
#include <utility>

namespace memtrace {
namespace {

uint64_t round_up(uint64_t bytes, uint64_t step) {
  return (bytes + step - 1) / step * step;
}

} // namespace

void Segments::forget_bases() {
  for (Reservation& reservation : reservations_)
    reservation.base_known = false;
}

Segments::Reservation& Segments::reservation(uint64_t address, uint64_t size_bytes, uint64_t stream,
                                             uint16_t pool, const AllocatorSettings& settings) {
  // A small reservation grows by single pages of 2 MiB; a large one by its own, larger pages.
  const bool small = size_bytes == kSmallPageBytes;
  for (Reservation& known : reservations_) {
    if (known.stream != stream || known.pool != pool)
      continue;
    if (known.extent != 0 && known.base_known) {
      if (address >= known.base && address - known.base < known.extent)
        return known;
      continue;
    }
    const uint64_t distance = address > known.base ? address - known.base : known.base - address;
    if (known.small == small && (known.extent == 0 || distance < known.extent)) {
      known.base = std::min(known.base, address);
      return known;
    }
  }
  uint64_t extent = 0;
  if (device_bytes_ != 0)
    extent = round_up(device_bytes_ + device_bytes_ / 8,
                      small ? kSmallPageBytes : settings.large_segment_bytes);
  return reservations_.emplace_back(
      Reservation{next_owner_++, address, extent, true, stream, pool, small, false, 0});
}

const SegmentRange& Segments::add(uint64_t address, uint64_t size_bytes, uint64_t stream,
                                  uint16_t pool, bool expandable, const AllocatorSettings& settings,
                                  Place place) {
  SegmentRange range{next_id_++, address,    size_bytes, stream, pool,
                     false,      expandable, 0,          place,  {-1, -1}};
  if (expandable) {
    Reservation& home = reservation(address, size_bytes, stream, pool, settings);
    home.mapped_bytes += size_bytes;
    range.owner = home.owner;
    range.small = home.small;
  } else {
    range.owner = next_owner_++;
    range.small = size_bytes == kSmallPageBytes; // the driver is asked for 2 MiB at a time
  }
  return live_.insert_or_assign(address, range).first->second;
}

void Segments::unmap(uint64_t owner, uint64_t bytes) {
  for (auto at = reservations_.begin(); at != reservations_.end(); ++at) {
    if (at->owner != owner)
      continue;
    at->mapped_bytes -= std::min(bytes, at->mapped_bytes);
    if (at->mapped_bytes == 0) // torch gives the addresses back: they may come again
      reservations_.erase(at);
    return;
  }
}

uint64_t Segments::remove(uint64_t address, uint64_t size_bytes, Place place) {
  const uint64_t end = address + size_bytes;
  uint64_t held = 0;
  auto at = live_.upper_bound(address);
  if (at != live_.begin() &&
      std::prev(at)->second.address + std::prev(at)->second.size_bytes > address)
    --at;
  while (at != live_.end() && at->second.address < end) {
    const SegmentRange whole = at->second;
    at = live_.erase(at);
    const uint64_t whole_end = whole.address + whole.size_bytes;
    const uint64_t from = std::max(whole.address, address), to = std::min(whole_end, end);
    held += to - from;
    // The pieces that stay; the first of all pieces keeps the id.
    int64_t id = whole.id;
    const auto keep = [&](uint64_t begin, uint64_t until) {
      SegmentRange piece = whole;
      piece.address = begin;
      piece.size_bytes = until - begin;
      piece.id = std::exchange(id, 0) != 0 ? whole.id : next_id_++;
      live_.insert_or_assign(begin, piece);
    };
    if (whole.address < from)
      keep(whole.address, from);
    if (to < whole_end)
      keep(to, whole_end);
    SegmentRange gone = whole;
    gone.address = from;
    gone.size_bytes = to - from;
    gone.id = id != 0 ? id : next_id_++;
    gone.free = place;
    ended_.push_back(gone);
    if (whole.expandable)
      unmap(whole.owner, to - from);
    if (to < whole_end)
      break;
  }
  return held;
}

const SegmentRange* Segments::find(uint64_t address) const {
  auto after = live_.upper_bound(address);
  if (after == live_.begin())
    return nullptr;
  const SegmentRange& range = std::prev(after)->second;
  return address - range.address < range.size_bytes ? &range : nullptr;
}

void Segments::prove_small(const SegmentRange& range, bool small) {
  if (range.small == small)
    return;
  if (!range.expandable) {
    live_.find(range.address)->second.small = small;
    return;
  }
  const uint64_t owner = range.owner;
  for (Reservation& reservation : reservations_) {
    if (reservation.owner != owner || reservation.proven)
      continue;
    reservation.small = small;
    reservation.proven = true;
    for (auto& [address, other] : live_)
      if (other.owner == owner)
        other.small = small;
  }
}

std::vector<SegmentRange> Segments::take_ended() {
  return std::exchange(ended_, {});
}

} // namespace memtrace
