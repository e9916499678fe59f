#include "analyse/tensor_notes.h"

#include "analyse/json.h"

#include <algorithm>
#include <charconv>

namespace memtrace {
namespace {

DeviceCode device_code(std::string_view device) {
  constexpr std::string_view kCuda = "cuda:";
  if (!device.starts_with(kCuda))
    return kCpu;
  unsigned index = 0;
  std::from_chars(device.data() + kCuda.size(), device.data() + device.size(), index);
  return index < 255 ? cuda_device(static_cast<int>(index)) : kCpu;
}

uint64_t mix(uint64_t hash, uint64_t value) {
  return (hash ^ value) * 0x9e3779b97f4a7c15ULL + (hash >> 29);
}

} // namespace

TensorNotes::TensorNotes(NameStrings& names, Lifetimes& lifetimes, Table& rows)
    : names_(names), lifetimes_(lifetimes), rows_(rows) {
  for (const std::string_view text : names.text().tensor_notes())
    read(text);
  std::ranges::stable_sort(notes_, {}, &Note::ticks);
}

void TensorNotes::read(std::string_view text) {
  const auto json = Json::parse(text);
  if (!json || (*json)["address"].address() == 0) {
    ++unmatched_;
    return;
  }
  const auto string = [&](const char* key) {
    const Json& value = (*json)[key];
    return value.type() == Json::Type::string ? names_.intern(value.string()) : StringId::null;
  };
  Note note{};
  note.ticks = (*json)["ticks"].address();
  note.address = (*json)["address"].address();
  note.device = device_code((*json)["device"].string());
  note.name = string("name");
  // Written before a scan found the model that this root is a part of.
  if (const auto root = static_cast<uint32_t>((*json)["root_id"].integer());
      root != 0 && note.name != StringId::null)
    note.name = names_.intern(names_.text().full_path(root, names_[note.name]));
  note.kind = string("kind");
  note.label = string("label");
  note.dtype = string("dtype");
  note.category = category_of((*json)["kind"].string());
  note.label_category = category_of((*json)["category"].string());
  note.offset_bytes = (*json)["offset_bytes"].integer();
  note.resident_bytes = (*json)["resident_bytes"].integer(kNull);
  for (const Json& size : (*json)["shape"].array())
    note.shape.push_back(size.integer());
  notes_.push_back(std::move(note));
}

void TensorNotes::apply_next() {
  const size_t index = next_++;
  const Note& note = notes_[index];
  if (Allocation* allocation = lifetimes_.find(note.device, note.address))
    apply(note, *allocation);
  else
    waiting_[note.address].push_back(index);
}

void TensorNotes::external(uint64_t address) {
  const auto waiting = waiting_.find(address);
  if (waiting == waiting_.end())
    return;
  if (Allocation* allocation = lifetimes_.find(kCpu, address))
    for (const size_t index : waiting->second)
      apply(notes_[index], *allocation);
  waiting_.erase(waiting);
}

void TensorNotes::finish() {
  apply_before(UINT64_MAX);
  for (const auto& [address, indices] : waiting_)
    unmatched_ += indices.size();
  waiting_.clear();
}

void TensorNotes::apply(const Note& note, Allocation& allocation) {
  // The earlier category wins where two fit; a scan's identity and a user's word count alike.
  const auto claim = [&](Category category, CategoryBy by) {
    if (category >= allocation.category)
      return;
    allocation.category = category;
    allocation.category_by = by;
  };
  claim(note.category, CategoryBy::identity);
  claim(note.label_category, CategoryBy::label);
  if (note.resident_bytes != kNull)
    allocation.resident_bytes = note.resident_bytes;
  if (note.label != StringId::null && !allocation.labelled) {
    allocation.label = note.label;
    allocation.labelled = true;
  } else if (allocation.label == StringId::null) {
    allocation.label = note.name;
  }
  if (note.name == StringId::null)
    return;
  uint64_t hash = mix(static_cast<uint64_t>(note.name), static_cast<uint64_t>(note.kind));
  hash =
      mix(mix(hash, static_cast<uint64_t>(note.offset_bytes)), static_cast<uint64_t>(note.dtype));
  for (const int64_t size : note.shape)
    hash = mix(hash, static_cast<uint64_t>(size));
  auto& named = named_[allocation.id];
  if (std::ranges::find(named, hash) != named.end())
    return;
  named.push_back(hash);
  rows_.add(allocation.id, note.name, note.kind, note.offset_bytes, note.shape, note.dtype,
            lifetimes_.next_seq());
}

} // namespace memtrace
