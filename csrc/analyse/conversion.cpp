#include "analyse/conversion.h"

#include <algorithm>

namespace memtrace {
namespace {

// Records between two looks at how full the tables are.
constexpr size_t kStride = 1024;

} // namespace

Conversion::Conversion(const SpoolReader& reader, size_t batch_rows, size_t part_rows)
    : reader_(reader), batch_rows_(std::max<size_t>(batch_rows, kStride)),
      part_rows_(std::max<size_t>(part_rows, 1)), merge_(reader), scale_(reader.tick_scale()),
      names_(reader.text()), labels_(names_), stacks_(names_),
      calls_(names_, stacks_, out_.operators), forward_calls_(names_, stacks_),
      stages_(names_, out_.stages, out_.steps),
      lifetimes_(names_, labels_, calls_, forward_calls_, stages_, out_),
      tensors_(names_, lifetimes_, out_.names, scale_),
      reading_(scale_, calls_, forward_calls_, stages_, lifetimes_, tensors_) {
  read_devices();
  if (!reader.logs().empty()) // the recorder's own log, which holds the notes
    for (const ChunkRecords& chunk : reader.logs().front()) {
      stages_.foresee_blocks(chunk, reader.records());
      reader.release(chunk);
    }
  tensors_.begin(reader);
}

void Conversion::read_devices() {
  for (const std::string_view text : reader_.text().process_notes())
    for (const auto& [code, bytes] : bytes_of_devices(text))
      lifetimes_.set_device_bytes(code, bytes);
}

std::vector<Batch> Conversion::advance() {
  std::vector<Batch> batches;
  while (!finished_ && batches.empty()) {
    for (size_t i = 0; i < kStride; ++i) {
      const Record* next = merge_.next();
      if (!next) {
        finish(batches);
        return batches;
      }
      record(*next);
    }
    take_full(batches);
  }
  return batches;
}

void Conversion::record(const Record& record) {
  const Place place = reading_.read(record);
  if (record.event.tail.action == Action::mark)
    mark(record.note, place);
  else if (record.event.tail.action == Action::sample)
    sample(record.note, place);
}

void Conversion::mark(const Note& note, Place place) {
  const std::string_view kind = reader_.text().name(note.name);
  if (kind == "settings") {
    const std::string_view text = reader_.text().name(note.text);
    lifetimes_.set_settings(AllocatorSettings::from_json(text));
    if (!std::exchange(have_settings_, true))
      settings_text_ = text;
  } else if (kind == "reset_peak") {
    lifetimes_.reset_peak(note.tail.device);
    pauses_.reset_peak(note.tail.device);
  } else if (kind == "pause") {
    pauses_.pause(place.time_ns);
    lifetimes_.pause();
  } else if (kind == "resume") {
    pauses_.resume(place.time_ns);
    lifetimes_.resume();
  }
  // Of a backward pass the value is autograd's number of it.
  const bool backward = kind == "backward_begin" || kind == "backward_end";
  const bool about_pool = !backward && (note.value != 0 || note.value2 != 0);
  const StringId text = backward ? names_.intern(std::to_string(note.value)) : names_.of(note.text);
  out_.marks.add(place.seq, place.time_ns,
                 note.tail.device != kCpu ? labels_.device(note.tail.device) : StringId::null,
                 names_.of(note.name),
                 about_pool ? labels_.mempool(note.value, note.value2) : StringId::null, text,
                 or_null(note.tail.thread));
}

void Conversion::sample(const Note& note, Place place) {
  const auto value = static_cast<int64_t>(note.value);
  out_.samples.add(place.time_ns, place.seq, names_.of(note.target), names_.of(note.source),
                   names_.of(note.name), value, names_.of(note.text), names_.of(note.reason));
  if (reader_.text().name(note.source) != "torch")
    return;
  if (reader_.text().name(note.name) == "allocated_bytes.peak")
    pauses_.peak(note.tail.device, value, reader_.text().name(note.reason));
  if (pauses_.is_on()) // torch counts what is not recorded
    return;
  const std::string_view target = reader_.text().name(note.target);
  if (reader_.text().name(note.name) == "reserved_bytes.current")
    lifetimes_.tell_reserved(note.tail.device, note.value);
  for (const DeviceCode code : lifetimes_.devices())
    if (code != kCpu && names_[labels_.device(code)] == target)
      reconciliation_.compare(target, reader_.text().name(note.name), value, lifetimes_.tally(code),
                              place.seq);
}

void Conversion::take(Table& table, std::vector<Batch>& batches, bool ends_part) {
  if (table.rows() > 0)
    batches.push_back(table.take(names_.pool(), ends_part));
}

// A part of `allocations` is in alloc_seq order, so it is filled at once.
void Conversion::take_allocations(std::vector<Batch>& batches, bool ends_part) {
  lifetimes_.add_finished_rows();
  take(out_.allocations, batches, ends_part);
}

void Conversion::take_full(std::vector<Batch>& batches) {
  for (Table* table : {&out_.events, &out_.operators, &out_.segments, &out_.names, &out_.samples,
                       &out_.marks, &out_.stages, &out_.steps})
    if (table->rows() >= batch_rows_)
      take(*table, batches);
  if (lifetimes_.finished() >= part_rows_)
    take_allocations(batches, true);
}

void Conversion::finish(std::vector<Batch>& batches) {
  finished_ = true;
  tensors_.finish();
  stages_.finish();
  lifetimes_.finish();
  lifetimes_.add_timeline_rows();
  take_allocations(batches, true);
  while (stacks_.add_rows(out_.stacks, batch_rows_))
    take(out_.stacks, batches);
  for (Table* table : {&out_.events, &out_.operators, &out_.segments, &out_.names, &out_.samples,
                       &out_.marks, &out_.stages, &out_.steps, &out_.stacks, &out_.timeline})
    take(*table, batches);
}

std::vector<std::pair<const char*, uint64_t>> Conversion::oddities() const {
  const LifetimeCounts& counts = lifetimes_.counts();
  return {{"missed_frees", counts.missed_frees},
          {"bad_records", counts.bad_records + reading_.unknown_records()},
          {"order_gaps", merge_.order_gaps()},
          {"lost_spans", calls_.lost_spans()},
          {"mirror_inconsistencies", lifetimes_.mirror_inconsistencies()},
          {"unmatched_names", tensors_.unmatched()},
          {"forgotten_forward_calls", forward_calls_.forgotten()}};
}

} // namespace memtrace
