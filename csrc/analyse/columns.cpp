#include "analyse/columns.h"

#include <algorithm>
#include <utility>

namespace memtrace {
namespace {

// The bitmap of what `missing` does not name; empty when nothing is missing.
template <typename Value>
std::vector<uint8_t> validity_of(const std::vector<Value>& values, Value missing) {
  if (std::find(values.begin(), values.end(), missing) == values.end())
    return {};
  std::vector<uint8_t> bitmap((values.size() + 7) / 8, 0);
  for (size_t i = 0; i < values.size(); ++i)
    bitmap[i / 8] |= static_cast<uint8_t>((values[i] != missing) << (i % 8));
  return bitmap;
}

} // namespace

StringPool::Known& StringPool::find_or_add(std::string_view text, bool passing) {
  if (const auto found = ids_.find(text); found != ids_.end())
    return found->second;
  auto id = static_cast<uint32_t>(strings_.size());
  if (unused_.empty()) {
    strings_.emplace_back(text);
  } else {
    id = unused_.back();
    unused_.pop_back();
    strings_[id] = text;
  }
  if (passing)
    passing_.push_back(id);
  return ids_.emplace(strings_[id], Known{id, passing}).first->second;
}

StringId StringPool::intern(std::string_view text) {
  Known& known = find_or_add(text, false);
  known.passing = false;
  return StringId{known.id};
}

StringId StringPool::intern_passing(std::string_view text) {
  return StringId{find_or_add(text, true).id};
}

void StringPool::forget_passing() {
  for (const uint32_t id : passing_) {
    const auto known = ids_.find(strings_[id]);
    if (!known->second.passing)
      continue;
    ids_.erase(known);
    unused_.push_back(id);
  }
  passing_.clear();
}

void Column::take_strings(const StringPool& strings, ColumnData& data) {
  int32_t null_code = kAbsent;
  for (const StringId id : used_) {
    if (id == StringId::null)
      null_code = static_cast<int32_t>(data.dictionary.size());
    data.dictionary.push_back(strings[id]);
    local_[static_cast<uint32_t>(id)] = kAbsent;
  }
  if (null_code != kAbsent)
    data.validity = validity_of(codes_, null_code);
  data.codes = std::exchange(codes_, {});
  used_.clear();
}

ColumnData Column::take(const StringPool& strings) {
  ColumnData data{spec_.name, spec_.type, {}, {}, {}, {}, {}};
  switch (spec_.type) {
  case ColumnType::string:
    take_strings(strings, data);
    return data;
  case ColumnType::int64_list:
    data.offsets = std::exchange(offsets_, {});
    data.offsets.insert(data.offsets.begin(), 0);
    break;
  default:
    data.validity = validity_of(words_, kNull);
  }
  const size_t room = words_.size();
  data.words = std::exchange(words_, {});
  words_.reserve(room);
  return data;
}

Table::Table(std::string dataset, const std::vector<ColumnSpec>& specs)
    : dataset_(std::move(dataset)) {
  columns_.reserve(specs.size());
  for (const ColumnSpec& spec : specs)
    columns_.emplace_back(spec);
}

Batch Table::take(const StringPool& strings, bool ends_part) {
  Batch batch{dataset_, std::exchange(rows_, 0), ends_part, {}};
  for (Column& column : columns_)
    batch.columns.push_back(column.take(strings));
  return batch;
}

} // namespace memtrace
