#include "analyse/name_strings.h"

namespace memtrace {

StringId NameStrings::resolve(uint32_t name_id) {
  if (name_id == 0)
    return StringId::null;
  const auto written = text_.find(TextKind::name, name_id);
  const StringId id = intern(text_.name(name_id));
  if (written) { // only ids that exist: a garbage id must not make the table grow
    if (known_.size() <= name_id)
      known_.resize(name_id + name_id / 2 + 64, StringId::null);
    known_[name_id] = id;
  }
  return id;
}

} // namespace memtrace
