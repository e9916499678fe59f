#include "analyse/live_owners.h"

#include "analyse/labels.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace memtrace {
namespace {

// Weights and what is theirs are made outside of any call of their module.
bool is_of_parameter(Category category) {
  return category <= Category::optimizer_state;
}

// What a name can prove (attribute/names.py); the rest is proven by lifetimes, at the end.
bool is_identity(Category category) {
  return category <= Category::output;
}

} // namespace

size_t LiveOwners::Hash::operator()(const LiveOwner& owner) const {
  uint64_t hash = static_cast<uint64_t>(owner.op) << 32 | static_cast<uint64_t>(owner.source);
  hash = (hash ^ hash >> 29) * 0x9e3779b97f4a7c15ULL;
  hash ^= static_cast<uint64_t>(owner.module) << 16 | static_cast<uint64_t>(owner.device) << 8 |
          static_cast<uint64_t>(owner.category);
  return (hash ^ hash >> 32) * 0x9e3779b97f4a7c15ULL;
}

uint32_t LiveOwners::row_of(const LiveOwner& owner) {
  if (last_row_ < rows_.size() && rows_[last_row_].owner == owner)
    return last_row_;
  const auto [known, is_new] = row_numbers_.try_emplace(owner, static_cast<uint32_t>(rows_.size()));
  if (is_new)
    rows_.push_back({owner, {}, {}});
  return last_row_ = known->second;
}

void LiveOwners::add(uint32_t number, int64_t bytes, int64_t blocks) {
  Row& row = rows_[number];
  row.now.bytes += bytes;
  row.now.blocks += blocks;
  if (!std::exchange(row.changed, true))
    devices_[row.owner.device].changed.push_back(number);
}

void LiveOwners::began(Allocation& allocation) {
  if (allocation.origin == Origin::external) {
    devices_[kCpu].external.bytes += allocation.block_bytes;
    ++devices_[kCpu].external.blocks;
    return;
  }
  allocation.owner = row_of({allocation.device, allocation.label_category, allocation.op,
                             allocation.module, allocation.source});
  add(allocation.owner, allocation.block_bytes, 1);
  if (allocation.device == kCpu && allocation.origin == Origin::preexisting && complete_)
    was_there(allocation);
}

void LiveOwners::freed(const Allocation& allocation) {
  if (allocation.origin == Origin::external) {
    devices_[kCpu].external.bytes -= allocation.block_bytes;
    --devices_[kCpu].external.blocks;
    return;
  }
  add(allocation.owner, -allocation.block_bytes, -1);
}

void LiveOwners::counted(DeviceCode code, const DeviceBytes& bytes, Place place) {
  Device& device = devices_[code];
  device.now = bytes;
  device.most_reserved = std::max(device.most_reserved, bytes.reserved);
  if (bytes.allocated <= device.peak.allocated)
    return;
  device.peak = bytes;
  device.peak_place = place;
  for (const uint32_t number : device.changed) {
    rows_[number].peak = rows_[number].now;
    rows_[number].changed = false;
  }
  device.changed.clear();
}

void LiveOwners::named(Allocation& allocation, StringId name, StringId kind) {
  if (allocation.origin == Origin::external || allocation.free_seq != kNull)
    return;
  LiveOwner owner = rows_[allocation.owner].owner;
  const Category said = kind != StringId::null ? category_of(names_[kind]) : Category::none;
  const Category proven = is_identity(said) ? said : Category::none;
  const Category before = owner.category;
  owner.category = std::min({owner.category, proven, allocation.label_category});
  if (owner.module == StringId::null && proven == owner.category && is_of_parameter(proven) &&
      proven < before)
    owner.module = module_of_parameter(name);
  move(allocation, owner);
}

void LiveOwners::corrected(Allocation& allocation) {
  if (allocation.origin == Origin::external || allocation.free_seq != kNull)
    return;
  LiveOwner owner = rows_[allocation.owner].owner;
  owner.source = allocation.source;
  if (allocation.module != StringId::null)
    owner.module = allocation.module;
  move(allocation, owner);
}

// A live allocation that was there at the peak belongs to the other one there as well.
void LiveOwners::move(Allocation& allocation, const LiveOwner& to) {
  const uint32_t from = allocation.owner;
  if (rows_[from].owner == to)
    return;
  allocation.owner = row_of(to);
  Device& device = devices_[to.device];
  if (allocation.alloc_seq <= device.peak_place.seq || allocation.was_there) {
    rows_[from].peak.bytes -= allocation.block_bytes;
    --rows_[from].peak.blocks;
    rows_[allocation.owner].peak.bytes += allocation.block_bytes;
    ++rows_[allocation.owner].peak.blocks;
  }
  add(from, -allocation.block_bytes, -1);
  add(allocation.owner, allocation.block_bytes, 1);
}

void LiveOwners::was_there(Allocation& allocation) {
  Device& device = devices_[allocation.device];
  if (device.peak_place.seq == kNull)
    return; // before all else: it makes a peak itself
  allocation.was_there = true;
  found_late_.emplace_back(allocation.alloc_time_ns, allocation.block_bytes);
  device.peak.allocated += allocation.block_bytes;
  device.peak.active = device.peak.reserved = device.peak.requested = device.peak.allocated;
  rows_[allocation.owner].peak.bytes += allocation.block_bytes;
  ++rows_[allocation.owner].peak.blocks;
}

// "exp_avg of h.0.mlp.c_fc.weight": h.0.mlp.c_fc.
StringId LiveOwners::module_of_parameter(StringId name) {
  constexpr std::string_view kOf = " of ";
  std::string_view parameter = names_[name];
  if (const size_t of = parameter.rfind(kOf); of != std::string_view::npos)
    parameter.remove_prefix(of + kOf.size());
  const size_t dot = parameter.rfind('.');
  return dot != std::string_view::npos ? names_.intern(parameter.substr(0, dot)) : StringId::null;
}

} // namespace memtrace
