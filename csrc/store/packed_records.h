// Records in about a fifth of their bytes, and back, each bit the same.
//
// A record is told by how it differs from the last one of its action (its ticks: from the last one
// of any): a byte says which action it is and whether the same fields differ as last time, else two
// more say which fields do; then comes each difference, small ones in few bytes.
#pragma once

#include "record/event.h"

#include <cstdint>
#include <span>
#include <vector>

namespace memtrace {

// Appends them to `packed`.
void pack(std::span<const Record> records, std::vector<uint8_t>& packed);

// Fills all of `records`; false: these bytes are not that many packed records.
bool unpack(std::span<const uint8_t> packed, std::span<Record> records);

} // namespace memtrace
