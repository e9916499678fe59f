// Strings of a conversion: text ids of the spool and strings made here, as ids of one pool.
#pragma once

#include "analyse/columns.h"
#include "store/text_table.h"

#include <vector>

namespace memtrace {

class NameStrings {
 public:
  explicit NameStrings(const TextTable& text) : text_(text) {}

  // The string of a name id of the spool; null for 0.
  StringId of(uint32_t name_id) {
    if (name_id < known_.size() && known_[name_id] != StringId::null)
      return known_[name_id];
    return resolve(name_id);
  }
  StringId intern(std::string_view text) { return pool_.intern(text); }
  StringId intern_passing(std::string_view text) { return pool_.intern_passing(text); }
  void forget_passing() { pool_.forget_passing(); }
  const std::string& operator[](StringId id) const { return pool_[id]; }
  const StringPool& pool() const { return pool_; }
  const TextTable& text() const { return text_; }

 private:
  StringId resolve(uint32_t name_id);

  const TextTable& text_;
  StringPool pool_;
  std::vector<StringId> known_;
};

} // namespace memtrace
