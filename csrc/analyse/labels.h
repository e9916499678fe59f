// The words that columns are made of: devices, actions, pools, categories, as string ids.
#pragma once

#include "analyse/allocation.h"
#include "analyse/name_strings.h"
#include "record/event.h"

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace memtrace {

class Labels {
 public:
  explicit Labels(NameStrings& names);

  StringId device(DeviceCode device);
  StringId action(Action action) const { return actions_[static_cast<size_t>(action)]; }
  StringId memory(Memory memory) const { return memories_[static_cast<size_t>(memory)]; }
  StringId origin(Origin origin) const { return origins_[static_cast<size_t>(origin)]; }
  StringId phase(Phase phase) const { return phases_[static_cast<size_t>(phase)]; }
  StringId category(Category category) const { return categories_[static_cast<size_t>(category)]; }
  // What proves it, where the user said so.
  StringId category_by(Category category) const {
    return category == Category::none ? StringId::null : by_label_;
  }
  // "default", "graph:7", "mempool:3": of the pool id of a CUDA event.
  StringId pool(uint16_t pool) {
    return pool < pools_.size() && pools_[pool] != StringId::null ? pools_[pool] : find_pool(pool);
  }
  // The same for torch's own two words.
  StringId mempool(uint64_t first, uint64_t second);

 private:
  StringId find_pool(uint16_t pool);

  NameStrings& names_;
  std::array<StringId, 256> devices_{};
  std::array<StringId, 16> actions_{};
  std::array<StringId, 8> memories_{};
  std::array<StringId, 3> origins_{};
  std::array<StringId, 4> phases_{};
  std::array<StringId, 12> categories_{};
  StringId by_label_;
  std::vector<StringId> pools_; // by pool id
};

// What a note on a process says of its CUDA devices: how many bytes each has.
std::vector<std::pair<DeviceCode, uint64_t>> bytes_of_devices(std::string_view process_note);

// The category of that name, or `none`.
Category category_of(std::string_view kind);

} // namespace memtrace
