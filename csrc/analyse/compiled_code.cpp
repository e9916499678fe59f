#include "analyse/compiled_code.h"

#include "analyse/json.h"
#include "analyse/stack_facts.h"

#include <algorithm>
#include <utility>

namespace memtrace {
namespace {

// The innermost frame outside torch; else the innermost: [[file, line, function], ...], from there.
CompiledCode::Origin origin_of(const Json& frames) {
  const Json* chosen = nullptr;
  for (const Json& frame : frames.array()) {
    if (frame.array().size() != 3)
      continue;
    const bool outside = !inside_torch(frame.array()[0].string());
    if (!chosen || outside)
      chosen = &frame;
    if (outside)
      break;
  }
  if (!chosen)
    return {};
  const auto& fields = chosen->array();
  return {std::string(fields[0].string()), std::string(fields[2].string()),
          static_cast<uint32_t>(std::clamp<int64_t>(fields[1].integer(), 0, INT32_MAX))};
}

} // namespace

CompiledCode::CompiledCode(const TextTable& text) {
  for (const std::string_view note : text.source_maps()) {
    const auto json = Json::parse(note);
    if (!json || (*json)["file"].string().empty())
      continue;
    std::string file((*json)["file"].string());
    if (const auto cell = (*json)["cell"].string(); !cell.empty()) {
      cells_[std::move(file)] = cell;
      continue;
    }
    Lines& lines = files_[std::move(file)];
    for (const Json& entry : (*json)["lines"].array()) {
      const auto& fields = entry.array();
      if (fields.size() != 2)
        continue;
      const int64_t from = fields[0].integer(-1);
      if (from >= 0 && from <= INT32_MAX)
        lines[static_cast<uint32_t>(from)] = origin_of(fields[1]);
    }
  }
}

const CompiledCode::Origin* CompiledCode::origin(std::string_view file, uint32_t line) const {
  const auto found = files_.find(std::string(file));
  if (found == files_.end())
    return nullptr;
  auto next = found->second.upper_bound(line);
  if (next == found->second.begin())
    return nullptr;
  const Origin& origin = (--next)->second;
  return origin.file.empty() ? nullptr : &origin;
}

bool CompiledCode::is_generated(std::string_view file) const {
  // Inductor's default folder; one of the user's own choice is known by its notes.
  return file.find("/torchinductor_") != std::string_view::npos ||
         files_.contains(std::string(file));
}

std::string_view CompiledCode::cell(std::string_view file) const {
  const auto found = cells_.find(std::string(file));
  return found == cells_.end() ? std::string_view{} : found->second;
}

} // namespace memtrace
