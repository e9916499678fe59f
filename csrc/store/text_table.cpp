#include "store/text_table.h"

#include <cstring>

namespace memtrace {
namespace {

bool plausible(const TextFrame& frame) {
  return frame.check == kTextCheck && frame.kind >= TextKind::name &&
         frame.kind <= TextKind::process;
}

} // namespace

// A frame takes at least a header: no honest id can be larger, and no garbage id makes us reserve
// more than the log itself is long.
TextTable::TextTable(const std::string& path)
    : file_(path), most_ids_(file_.size() / sizeof(TextFrame) + 1) {
  read();
}

void TextTable::read() {
  const uint8_t* data = file_.data();
  const size_t size = file_.size();
  size_t at = 0;
  while (at + sizeof(TextFrame) <= size) {
    TextFrame frame{};
    std::memcpy(&frame, data + at, sizeof frame);
    const size_t left = size - at - sizeof frame;
    if (plausible(frame) && frame.length <= left) {
      add(frame, {reinterpret_cast<const char*>(data + at + sizeof frame), frame.length});
      at += sizeof frame + frame.length;
      continue;
    }
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
  for (; at < size; ++at)
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
  case TextKind::module_path:
    if (payload.size() >= sizeof(uint32_t))
      module_paths_[frame.id].push_back(payload);
    return;
  default:
    break;
  }
  if (frame.id == 0 || frame.id > most_ids_)
    return;
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

std::string_view TextTable::module_path(uint32_t module, uint32_t root) const {
  const auto found = module_paths_.find(module);
  if (found == module_paths_.end())
    return {};
  std::string_view any;
  for (const std::string_view text : found->second) {
    uint32_t of = 0;
    std::memcpy(&of, text.data(), sizeof of);
    const std::string_view path = text.substr(sizeof of);
    if (of == root)
      return path;
    if (any.data() == nullptr)
      any = path;
  }
  return any;
}

} // namespace memtrace
