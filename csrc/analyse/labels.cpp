#include "analyse/labels.h"

#include "analyse/json.h"

#include <cstring>

namespace memtrace {
namespace {

constexpr std::array<const char*, 12> kActions = {
    nullptr,         "alloc",        "free_requested", "free_completed",
    "segment_alloc", "segment_free", "segment_map",    "segment_unmap",
    "oom",           "snapshot",     "preexisting",    "external"};
constexpr std::array<const char*, 5> kMemories = {"device", "host", "pinned", "mapped", "shared"};
constexpr std::array<const char*, 3> kOrigins = {"recorded", "preexisting", "external"};
constexpr std::array<const char*, 4> kPhases = {"forward", "backward", "optimizer", "other"};
constexpr std::array<const char*, 12> kCategories = {
    "weight", "buffer",     "gradient",  "optimizer_state", "kv_cache", "input",
    "output", "activation", "workspace", "temporary",       "other",    nullptr};

std::string numbered(std::string text, uint64_t number) {
  text += std::to_string(number);
  return text;
}

template <size_t Words, size_t Ids>
void intern_all(NameStrings& names, const std::array<const char*, Words>& words,
                std::array<StringId, Ids>& ids) {
  static_assert(Words <= Ids);
  for (size_t i = 0; i < Words; ++i)
    if (words[i])
      ids[i] = names.intern(words[i]);
}

} // namespace

Labels::Labels(NameStrings& names) : names_(names), by_label_(names.intern("label")) {
  intern_all(names, kActions, actions_);
  intern_all(names, kMemories, memories_);
  intern_all(names, kOrigins, origins_);
  intern_all(names, kPhases, phases_);
  intern_all(names, kCategories, categories_);
}

StringId Labels::device(DeviceCode device) {
  StringId& id = devices_[device];
  if (id == StringId::null)
    id = names_.intern(device == kCpu ? "cpu" : numbered("cuda:", device - 1U));
  return id;
}

StringId Labels::mempool(uint64_t first, uint64_t second) {
  if (first == 0 && second == 0)
    return names_.intern("default");
  // torch numbers the pools that a graph's capture makes in the first word, all others in the
  // second.
  if (second == 0)
    return names_.intern(numbered("graph:", first));
  std::string text = numbered("mempool:", second);
  if (first != 0)
    text = numbered(text + '.', first);
  return names_.intern(text);
}

StringId Labels::find_pool(uint16_t pool) {
  uint64_t words[2] = {0, 0};
  auto id = StringId::null;
  const auto text = names_.text().find(TextKind::pool, pool);
  if (pool == 0) {
    id = mempool(0, 0);
  } else if (text && text->size() >= sizeof words) {
    std::memcpy(words, text->data(), sizeof words);
    id = mempool(words[0], words[1]);
  } else {
    id = names_.intern(pool == kUnnumberedPool ? "other" : "?");
  }
  if (pools_.size() <= pool)
    pools_.resize(pool + size_t{1}, StringId::null);
  return pools_[pool] = id;
}

std::vector<std::pair<DeviceCode, uint64_t>> bytes_of_devices(std::string_view process_note) {
  std::vector<std::pair<DeviceCode, uint64_t>> devices;
  const auto json = Json::parse(process_note);
  if (!json)
    return devices;
  for (const Json& device : (*json)["devices"].array()) {
    const Json& which = device["device"]; // "cuda:0" or its number
    int64_t index = which.integer(-1);
    if (which.string().starts_with("cuda:"))
      index = Json::parse(which.string().substr(5)).value_or(Json{}).integer(-1);
    if (index >= 0 && index < 255)
      devices.emplace_back(cuda_device(static_cast<int>(index)), device["total_bytes"].address());
  }
  return devices;
}

Category category_of(std::string_view kind) {
  for (size_t i = 0; i < kCategories.size(); ++i)
    if (kCategories[i] && kind == kCategories[i])
      return static_cast<Category>(i);
  return Category::none;
}

} // namespace memtrace
