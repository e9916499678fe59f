// What text.log says: id -> payload, by kind, and the JSON notes in order.
//
// Views point into the mapped file. Ids that were never written resolve to nothing, which the
// caller shows as "?" and which is counted here. Of a process that runs, read_on() adds what it
// wrote meanwhile; a text that is not whole is then one that is being written.
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
  explicit TextTable(const std::string& path, size_t room = 0); // `room`: of MappedFile
  void read_on();

  std::optional<std::string_view> find(TextKind kind, uint32_t id) const;
  // The string of a name id: empty for 0, "?" for an id that was never written (counted).
  std::string_view name(uint32_t id) const;
  // Ids of a kind that were written, rising.
  std::vector<uint32_t> ids(TextKind kind) const;

  const std::vector<std::string_view>& process_notes() const { return process_notes_; }
  const std::vector<std::string_view>& tensor_notes() const { return tensor_notes_; }
  const std::vector<std::string_view>& source_maps() const { return source_maps_; }
  // How many texts were read that say more of what is known already: where modules hang and where
  // generated code comes from; what threads are called.
  size_t texts_of_modules() const { return texts_of_modules_; }
  size_t texts_of_threads() const { return texts_of_threads_; }
  // A module's path in that root, where it was written; of several the first. Empty: none, or the
  // root itself.
  std::string_view module_path(uint32_t module, uint32_t root) const;
  // A root whose paths name the module, if any: itself when it is one.
  uint32_t any_root(uint32_t module) const;
  // The root that has this one inside it, and no known root around it; itself when there is none.
  // Of roots that contain each other, always the same one. Roots nest kMostNested deep at most.
  uint32_t outermost_root(uint32_t root) const;
  // The path of a module that has `path` in `root`, from the outermost root on.
  std::string full_path(uint32_t root, std::string_view path) const;

  size_t bytes_cut() const { return bytes_cut_; }
  size_t unknown_ids() const { return unknown_ids_; }

 private:
  // What the paths of a module say of it, whatever their number.
  struct ModulePlace {
    uint32_t first_root = 0;
    bool is_root = false;
    uint32_t around = 0; // the first root, other than itself, that has it inside; 0: none
  };
  void read();
  void add_module_path(uint32_t module, std::string_view payload);
  uint32_t root_around(uint32_t root) const;
  void add(const TextFrame& frame, std::string_view payload);

  static constexpr size_t kKinds = 10;
  // Deeper, and longer, than models are: chains of roots in a damaged log must not make a path of
  // each module that grows with the log.
  static constexpr size_t kMostNested = 64;
  static constexpr size_t kMostPathBytes = 4096;
  MappedFile file_;
  bool grows_;
  size_t most_ids_;
  size_t at_ = 0; // that is read next
  std::array<std::vector<std::string_view>, kKinds> texts_;
  std::unordered_map<uint32_t, ModulePlace> module_places_;
  std::unordered_map<uint64_t, std::string_view> module_paths_; // by module and root
  std::vector<std::string_view> process_notes_, tensor_notes_, source_maps_;
  size_t texts_of_modules_ = 0, texts_of_threads_ = 0;
  size_t bytes_cut_ = 0;
  mutable size_t unknown_ids_ = 0;
};

} // namespace memtrace
