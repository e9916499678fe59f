// What text.log says: id -> payload, by kind, and the JSON notes in order.
//
// Views point into the mapped file. Ids that were never written resolve to nothing, which the
// caller shows as "?" and which is counted here.
#pragma once

#include "record/spool.h"
#include "store/mapped_file.h"

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace memtrace {

class TextTable {
 public:
  explicit TextTable(const std::string& path);

  std::optional<std::string_view> find(TextKind kind, uint32_t id) const;
  // The string of a name id: empty for 0, "?" for an id that was never written (counted).
  std::string_view name(uint32_t id) const;
  // Ids of a kind that were written, rising.
  std::vector<uint32_t> ids(TextKind kind) const;

  const std::vector<std::string_view>& process_notes() const { return process_notes_; }
  const std::vector<std::string_view>& tensor_notes() const { return tensor_notes_; }
  // Every path written for a module: (root module id, path in that root).
  std::string_view module_path(uint32_t module, uint32_t root) const;

  size_t bytes_cut() const { return bytes_cut_; }
  size_t unknown_ids() const { return unknown_ids_; }

 private:
  void read();
  void add(const TextFrame& frame, std::string_view payload);

  static constexpr size_t kKinds = 9;
  MappedFile file_;
  size_t most_ids_;
  std::array<std::vector<std::string_view>, kKinds> texts_;
  std::unordered_map<uint32_t, std::vector<std::string_view>> module_paths_;
  std::vector<std::string_view> process_notes_, tensor_notes_;
  size_t bytes_cut_ = 0;
  mutable size_t unknown_ids_ = 0;
};

} // namespace memtrace
