#include "store/text_table.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace memtrace {
namespace {

bool plausible(const TextFrame& frame) {
  return frame.check == kTextCheck && frame.kind >= TextKind::name &&
         frame.kind <= TextKind::source_map;
}

uint64_t module_and_root(uint32_t module, uint32_t root) {
  return uint64_t{module} << 32 | root;
}

} // namespace

// A frame takes at least a header: no honest id can be larger, and no garbage id makes us reserve
// more than the log itself is long.
TextTable::TextTable(const std::string& path, size_t room)
    : file_(path, MappedFile::Missing::refuse, room), grows_(room > 0),
      most_ids_(file_.size() / sizeof(TextFrame) + 1) {
  read();
}

void TextTable::read_on() {
  if (!file_.grow())
    return;
  most_ids_ = file_.size() / sizeof(TextFrame) + 1;
  read();
}

void TextTable::read() {
  const uint8_t* data = file_.data();
  const size_t size = file_.size();
  size_t& at = at_;
  while (at + sizeof(TextFrame) <= size) {
    TextFrame frame{};
    std::memcpy(&frame, data + at, sizeof frame);
    const size_t left = size - at - sizeof frame;
    if (plausible(frame) && frame.length <= left) {
      add(frame, {reinterpret_cast<const char*>(data + at + sizeof frame), frame.length});
      at += sizeof frame + frame.length;
      continue;
    }
    if (grows_)
      return;
    // Zeros up to the end are space that was never used; anything else is damage: the next header
    // that makes sense goes on.
    size_t next = at;
    while (next < size && data[next] == 0)
      ++next;
    if (next == size)
      return;
    bytes_cut_ += 1;
    ++at;
  }
  for (; !grows_ && at < size; ++at)
    if (data[at] != 0)
      ++bytes_cut_;
}

void TextTable::add(const TextFrame& frame, std::string_view payload) {
  switch (frame.kind) {
  case TextKind::tensor:
    tensor_notes_.push_back(payload);
    return;
  case TextKind::process:
    process_notes_.push_back(payload);
    return;
  case TextKind::source_map:
    ++texts_of_modules_;
    source_maps_.push_back(payload);
    return;
  case TextKind::module_path:
    ++texts_of_modules_;
    add_module_path(frame.id, payload);
    return;
  default:
    break;
  }
  if (frame.id == 0 || frame.id > most_ids_)
    return;
  texts_of_threads_ += frame.kind == TextKind::thread ? 1 : 0;
  auto& texts = texts_[static_cast<size_t>(frame.kind)];
  if (texts.size() <= frame.id)
    texts.resize(frame.id + 1);
  // The first one stands. A thread may be numbered before a hook knows what torch calls it.
  if (texts[frame.id].data() == nullptr || frame.kind == TextKind::thread)
    texts[frame.id] = payload;
}

std::optional<std::string_view> TextTable::find(TextKind kind, uint32_t id) const {
  const auto& texts = texts_[static_cast<size_t>(kind)];
  if (id >= texts.size() || texts[id].data() == nullptr)
    return std::nullopt;
  return texts[id];
}

std::string_view TextTable::name(uint32_t id) const {
  if (id == 0)
    return {};
  if (const auto text = find(TextKind::name, id))
    return *text;
  ++unknown_ids_;
  return "?";
}

std::vector<uint32_t> TextTable::ids(TextKind kind) const {
  std::vector<uint32_t> ids;
  const auto& texts = texts_[static_cast<size_t>(kind)];
  for (uint32_t id = 1; id < texts.size(); ++id)
    if (texts[id].data() != nullptr)
      ids.push_back(id);
  return ids;
}

void TextTable::add_module_path(uint32_t module, std::string_view payload) {
  uint32_t root = 0;
  if (payload.size() < sizeof root)
    return;
  std::memcpy(&root, payload.data(), sizeof root);
  const std::string_view path = payload.substr(sizeof root);
  module_paths_.try_emplace(module_and_root(module, root), path);
  const auto [found, is_new] = module_places_.try_emplace(module);
  ModulePlace& place = found->second;
  if (is_new)
    place.first_root = root;
  if (root == module)
    place.is_root = true;
  else if (place.around == 0 && !path.empty())
    place.around = root;
}

std::string_view TextTable::module_path(uint32_t module, uint32_t root) const {
  const auto found = module_paths_.find(module_and_root(module, root));
  return found != module_paths_.end() ? found->second : std::string_view{};
}

uint32_t TextTable::any_root(uint32_t module) const {
  const auto found = module_places_.find(module);
  if (found == module_places_.end())
    return 0;
  return found->second.is_root ? module : found->second.first_root;
}

uint32_t TextTable::root_around(uint32_t root) const {
  const auto found = module_places_.find(root);
  return found != module_places_.end() ? found->second.around : 0;
}

uint32_t TextTable::outermost_root(uint32_t root) const {
  std::vector<uint32_t> seen;
  for (uint32_t at = root; at != 0 && seen.size() < kMostNested; at = root_around(at)) {
    if (const auto before = std::ranges::find(seen, at); before != seen.end())
      return *std::min_element(before, seen.end()); // they contain each other
    seen.push_back(at);
  }
  return seen.empty() ? root : seen.back();
}

std::string TextTable::full_path(uint32_t root, std::string_view path) const {
  std::string full(path);
  const uint32_t outermost = outermost_root(root);
  for (uint32_t at = root; at != outermost;) {
    // Straight to the outermost root where its own scan knows the way.
    const std::string_view straight = module_path(at, outermost);
    const uint32_t around = straight.empty() ? root_around(at) : outermost;
    std::string outer(straight.empty() ? module_path(at, around) : straight);
    if (outer.size() + full.size() > kMostPathBytes)
      break;
    if (!full.empty())
      outer.append(".").append(full);
    full = std::move(outer);
    at = around;
  }
  return full;
}

} // namespace memtrace
