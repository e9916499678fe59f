#include "analyse/dataset_rows.h"

#include <algorithm>

namespace memtrace {
DatasetRows::DatasetRows(const TextTable& text, TickScale scale, size_t batch_rows,
                         size_t part_rows)
    : batch_rows_(batch_rows), part_rows_(std::max<size_t>(part_rows, 1)), scale_(std::move(scale)),
      names_(text), labels_(names_), stacks_(names_), calls_(names_, stacks_, out_.operators),
      forward_calls_(names_, stacks_), stages_(names_, out_.stages, out_.steps),
      lifetimes_(names_, labels_, calls_, forward_calls_, stages_, out_),
      tensors_(names_, lifetimes_, out_.names, scale_),
      reading_(scale_, calls_, forward_calls_, stages_, lifetimes_, tensors_) {
  read_devices();
}

void DatasetRows::begin(const SpoolReader& reader) {
  if (!reader.logs().empty()) // the recorder's own log, which holds the notes
    for (const ChunkRecords& chunk : reader.logs().front()) {
      reader.make_ready(chunk);
      stages_.foresee_blocks(chunk, reader.records());
      reader.release(chunk);
    }
  tensors_.begin(reader);
}

void DatasetRows::read_on(std::span<const Record> notes) {
  read_devices();
  tensors_.read_on();
  stages_.foresee_blocks({notes.data(), notes.size()}, reading_.records() + notes.size());
  if (!stacks_.look_again())
    return;
  // Where modules hang was read after allocations in them.
  lifetimes_.each_unwritten([this](Allocation& allocation) {
    if (allocation.stack == 0 || allocation.forward_call_id != kNull)
      return;
    const StackFacts& facts = stacks_.facts(allocation.stack);
    allocation.module = facts.module;
    allocation.module_class = facts.module_class;
    allocation.source = facts.source;
  });
}

void DatasetRows::read_devices() {
  const auto& notes = names_.text().process_notes();
  for (; process_notes_read_ < notes.size(); ++process_notes_read_)
    for (const auto& [code, bytes] : bytes_of_devices(notes[process_notes_read_]))
      lifetimes_.set_device_bytes(code, bytes);
}

void DatasetRows::add(const Record& record) {
  const Place place = reading_.read(record);
  if (record.event.tail.action == Action::mark)
    mark(record.note, place);
  else if (record.event.tail.action == Action::sample)
    sample(record.note, place);
}

void DatasetRows::mark(const Note& note, Place place) {
  const std::string_view kind = names_.text().name(note.name);
  if (kind == "settings") {
    const std::string_view text = names_.text().name(note.text);
    lifetimes_.set_settings(AllocatorSettings::from_json(text));
    if (!std::exchange(have_settings_, true))
      settings_text_ = text;
  } else if (kind == "pool_ref") {
    lifetimes_.set_pool_rules(note.value, note.value2,
                              PoolRules::from_json(names_.text().name(note.text)));
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
  // Of a backward pass the value is autograd's number of it, which only the rows of two marks name.
  if (out_.marks.rows() == 0)
    names_.forget_passing();
  const bool backward = kind == "backward_begin" || kind == "backward_end";
  const bool about_pool = !backward && (note.value != 0 || note.value2 != 0);
  const StringId text =
      backward ? names_.intern_passing(std::to_string(note.value)) : names_.of(note.text);
  out_.marks.add(place.seq, place.time_ns,
                 note.tail.device != kCpu ? labels_.device(note.tail.device) : StringId::null,
                 names_.of(note.name),
                 about_pool ? labels_.mempool(note.value, note.value2) : StringId::null, text,
                 or_null(note.tail.thread));
}

void DatasetRows::sample(const Note& note, Place place) {
  const auto value = static_cast<int64_t>(note.value);
  out_.samples.add(place.time_ns, place.seq, names_.of(note.target), names_.of(note.source),
                   names_.of(note.name), value, names_.of(note.text), names_.of(note.reason));
  if (names_.text().name(note.source) != "torch")
    return;
  if (names_.text().name(note.name) == "allocated_bytes.peak")
    pauses_.peak(note.tail.device, value, names_.text().name(note.reason));
  if (pauses_.is_on()) // torch counts what is not recorded
    return;
  const std::string_view target = names_.text().name(note.target);
  if (names_.text().name(note.name) == "reserved_bytes.current")
    lifetimes_.tell_reserved(note.tail.device, note.value);
  for (const DeviceCode code : lifetimes_.devices())
    if (code != kCpu && names_[labels_.device(code)] == target)
      reconciliation_.compare(target, names_.text().name(note.name), value, lifetimes_.tally(code),
                              place.seq);
}

void DatasetRows::take(Table& table, std::vector<Batch>& batches, bool ends_part) {
  if (table.rows() > 0)
    batches.push_back(table.take(names_.pool(), ends_part));
}

// A part of `allocations` is in alloc_seq order, so it is filled at once.
void DatasetRows::take_allocations(std::vector<Batch>& batches, bool ends_part) {
  lifetimes_.add_finished_rows();
  take(out_.allocations, batches, ends_part);
}

void DatasetRows::take_full(std::vector<Batch>& batches) {
  for (Table* table : {&out_.events, &out_.operators, &out_.segments, &out_.names, &out_.samples,
                       &out_.marks, &out_.stages, &out_.steps})
    if (table->rows() >= batch_rows_)
      take(*table, batches);
  if (lifetimes_.finished() >= part_rows_)
    take_allocations(batches, true);
}

void DatasetRows::take_all(std::vector<Batch>& batches) {
  for (Table* table : {&out_.events, &out_.operators, &out_.segments, &out_.names, &out_.samples,
                       &out_.marks, &out_.stages, &out_.steps})
    take(*table, batches);
}

void DatasetRows::finish(std::vector<Batch>& batches) {
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

std::vector<std::pair<const char*, uint64_t>> DatasetRows::oddities(uint64_t order_gaps) const {
  const LifetimeCounts& counts = lifetimes_.counts();
  return {{"missed_frees", counts.missed_frees},
          {"bad_records", counts.bad_records + reading_.unknown_records()},
          {"order_gaps", order_gaps},
          {"lost_spans", calls_.lost_spans()},
          {"mirror_inconsistencies", lifetimes_.mirror_inconsistencies()},
          {"unmatched_names", tensors_.unmatched()},
          {"forgotten_forward_calls", forward_calls_.forgotten()}};
}

} // namespace memtrace
