#include "analyse/tensor_notes.h"

#include "analyse/json.h"

#include <algorithm>
#include <charconv>
#include <utility>

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

TensorNotes::TensorNotes(NameStrings& names, Lifetimes& lifetimes, Table& rows,
                         const TickScale& scale)
    : names_(names), lifetimes_(lifetimes), rows_(rows), scale_(scale) {
  read_on();
}

void TensorNotes::read_on() {
  const auto& texts = names_.text().tensor_notes();
  if (read_ == texts.size())
    return;
  notes_.erase(notes_.begin(), notes_.begin() + static_cast<ptrdiff_t>(std::exchange(next_, 0)));
  for (; read_ < texts.size(); ++read_)
    read(texts[read_]);
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
  note.bytes = (*json)["bytes"].address();
  note.device = device_code((*json)["device"].string());
  note.torchs_own = note.device == kCpu && note.bytes != 0 && (*json)["memory"].string().empty();
  note.name = string("name");
  // Written before a scan found the model that this root is a part of.
  if (const auto root = static_cast<uint32_t>((*json)["root_id"].integer());
      root != 0 && note.name != StringId::null)
    note.name = names_.intern(names_.text().full_path(root, names_[note.name]));
  note.kind = string("kind");
  note.label = string("label");
  note.layout.dtype = string("dtype");
  note.label_category = category_of((*json)["category"].string());
  note.offset_bytes = (*json)["offset_bytes"].integer();
  note.resident_bytes = (*json)["resident_bytes"].integer(kNull);
  for (const Json& size : (*json)["shape"].array())
    note.layout.shape.push_back(size.integer());
  notes_.push_back(std::move(note));
}

void TensorNotes::Candidates::add(const Note& note) {
  if (first_.try_emplace(note.address, &note).second)
    last_ticks_ = note.ticks;
}

// What lies in the memory that the event is about was not there before, if first noted after it.
void TensorNotes::Candidates::exclude(const AllocatorEvent& event) {
  const Action action = event.tail.action;
  if (event.tail.device != kCpu || (action != Action::alloc && action != Action::free_requested))
    return;
  auto next = first_.lower_bound(event.address + std::max<uint64_t>(event.size_bytes, 1));
  while (next != first_.begin()) {
    const auto [address, note] = *--next;
    if (address + note->bytes <= event.address)
      return;
    if (event.ticks < note->ticks)
      next = first_.erase(next);
  }
}

void TensorNotes::Candidates::exclude(const LogRecords& log, const SpoolReader& reader) {
  for (const ChunkRecords& chunk : log) {
    reader.make_ready(chunk);
    if (first_.empty() || chunk.count == 0 || chunk.records[0].event.ticks > last_ticks_)
      return; // a log is in the order of its ticks
    for (size_t i = 0; i < chunk.count; ++i)
      exclude(chunk.records[i].event);
    reader.release(chunk);
  }
}

uint64_t TensorNotes::first_pause(const SpoolReader& reader) const {
  if (reader.logs().empty())
    return UINT64_MAX;
  for (const ChunkRecords& chunk : reader.logs().front()) { // the recorder's own log
    reader.make_ready(chunk);
    for (size_t i = 0; i < chunk.count; ++i)
      if (const memtrace::Note& note = chunk.records[i].note;
          note.tail.action == Action::mark && names_.text().name(note.name) == "pause")
        return note.ticks;
    reader.release(chunk);
  }
  return UINT64_MAX;
}

void TensorNotes::begin(const SpoolReader& reader) {
  Candidates candidates;
  const uint64_t pause_ticks = first_pause(reader); // what is noted later may be of the pause
  for (const Note& note : notes_)
    if (note.torchs_own && note.ticks < pause_ticks)
      candidates.add(note);
  for (const LogRecords& log : reader.logs())
    candidates.exclude(log, reader);
  for (const auto& [address, note] : candidates.left())
    add_preexisting(*note, 0);
}

void TensorNotes::add_preexisting(const Note& note, int64_t time_ns) {
  AllocatorEvent event{};
  event.ticks = note.ticks;
  event.address = note.address;
  event.size_bytes = note.bytes;
  event.tail = {0, static_cast<uint16_t>(Memory::host), kCpu, Action::preexisting};
  lifetimes_.event(event, time_ns);
}

void TensorNotes::apply_next() {
  const Note& note = notes_[next_++];
  // Its allocation was not recorded, and cannot have been the first at its place.
  if (note.torchs_own && !lifetimes_.find(kCpu, note.address))
    add_preexisting(note, std::max(scale_.ns(note.ticks), lifetimes_.last_time_ns()));
  if (Allocation* allocation = lifetimes_.find(note.device, note.address))
    apply(note, *allocation);
  else
    waiting_[note.address].push_back(note);
}

void TensorNotes::external(uint64_t address) {
  const auto waiting = waiting_.find(address);
  if (waiting == waiting_.end())
    return;
  if (Allocation* allocation = lifetimes_.find(kCpu, address))
    for (const Note& note : waiting->second)
      apply(note, *allocation);
  waiting_.erase(waiting);
}

void TensorNotes::finish() {
  apply_before(UINT64_MAX);
  for (const auto& [address, notes] : waiting_)
    unmatched_ += notes.size();
  waiting_.clear();
}

void TensorNotes::apply(const Note& note, Allocation& allocation) {
  // The user's word; what names prove is worked out from the rows. Of two, the earlier category.
  allocation.label_category = std::min(allocation.label_category, note.label_category);
  if (note.resident_bytes != kNull)
    allocation.resident_bytes = note.resident_bytes;
  if (note.label != StringId::null && !allocation.labelled) {
    allocation.label = note.label;
    allocation.labelled = true;
  }
  lifetimes_.named(allocation, note.name, note.kind);
  add_name(allocation, note.name, note.kind, note.offset_bytes, note.layout);
}

void TensorNotes::tensor(const TensorRecord& record) {
  Allocation* allocation = lifetimes_.find(record.tail.device, record.address);
  if (!allocation)
    return;
  lifetimes_.named(*allocation, names_.of(record.name), names_.of(record.kind));
  add_name(*allocation, names_.of(record.name), names_.of(record.kind),
           static_cast<int64_t>(record.offset_bytes), layout_of(record.layout));
}

void TensorNotes::add_name(Allocation& allocation, StringId name, StringId kind,
                           int64_t offset_bytes, const Layout& layout) {
  for (const int64_t ended : lifetimes_.take_ended_named())
    named_.erase(ended);
  if (name == StringId::null)
    return;
  uint64_t hash = mix(static_cast<uint64_t>(name), static_cast<uint64_t>(kind));
  hash = mix(mix(hash, static_cast<uint64_t>(offset_bytes)), static_cast<uint64_t>(layout.dtype));
  for (const int64_t size : layout.shape)
    hash = mix(hash, static_cast<uint64_t>(size));
  allocation.named = true;
  if (!named_[allocation.id].add(hash))
    return;
  rows_.add(allocation.id, name, kind, offset_bytes, layout.shape, layout.dtype,
            lifetimes_.next_seq());
}

bool TensorNotes::KnownNames::add(uint64_t hash) {
  if (many_)
    return many_->insert(hash).second;
  if (std::ranges::find(few_, hash) != few_.end())
    return false;
  few_.push_back(hash);
  if (few_.size() > kFew) {
    many_ = std::make_unique<std::unordered_set<uint64_t>>(few_.begin(), few_.end());
    few_ = {};
  }
  return true;
}

// "float32 2x8x64"
const TensorNotes::Layout& TensorNotes::layout_of(uint32_t text_id) {
  const auto [known, is_new] = layouts_.try_emplace(text_id);
  Layout& layout = known->second;
  if (!is_new)
    return layout;
  std::string_view text = names_.text().name(text_id);
  const size_t space = std::min(text.find(' '), text.size());
  layout.dtype = names_.intern(text.substr(0, space));
  text.remove_prefix(space);
  while (!text.empty()) {
    text.remove_prefix(1); // the space, or an x
    int64_t size = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc{})
      break;
    layout.shape.push_back(size);
    text.remove_prefix(static_cast<size_t>(rest - text.data()));
  }
  return layout;
}

} // namespace memtrace
