#include "analyse/live.h"

#include "analyse/json.h"
#include "record/clock.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace memtrace {

Live::Live(const std::string& directory)
    : follower_(directory), scale_(follower_.tick_scale()), names_(follower_.text()),
      labels_(names_), stacks_(names_), calls_(names_, stacks_, out_.operators),
      forward_calls_(names_, stacks_, kMostForwardCalls), stages_(names_, out_.stages, out_.steps),
      lifetimes_(names_, labels_, calls_, forward_calls_, stages_, out_),
      tensors_(names_, lifetimes_, out_.names, scale_),
      reading_(scale_, calls_, forward_calls_, stages_, lifetimes_, tensors_), owners_(names_) {
  out_.discard_rows();
  lifetimes_.set_watch(&owners_);
}

bool Live::advance(bool ended, uint64_t most_ns) {
  const uint64_t begin_ns = clock_ns(CLOCK_MONOTONIC);
  do {
    look(ended);
  } while (follower_.behind() && clock_ns(CLOCK_MONOTONIC) - begin_ns < most_ns);
  if (stacks_.look_again())
    correct_owners();
  return !follower_.behind();
}

void Live::look(bool ended) {
  follower_.look(ended);
  scale_ = follower_.tick_scale();
  read_process_notes();
  tensors_.read_on();
  const auto notes = follower_.notes();
  stages_.foresee_blocks({notes.data(), notes.size()}, reading_.records() + notes.size());
  const auto& lost = follower_.control().lost;
  owners_.set_complete(!ever_paused_ && lost[static_cast<size_t>(Loss::event_no_space)] == 0);
  while (const Record* next = follower_.next())
    record(*next);
  tensors_.apply_before(follower_.settled_ticks());
}

void Live::read_process_notes() {
  const auto& notes = follower_.text().process_notes();
  for (; process_notes_read_ < notes.size(); ++process_notes_read_) {
    for (const auto& [code, bytes] : bytes_of_devices(notes[process_notes_read_])) {
      device_bytes_[code] = bytes;
      lifetimes_.set_device_bytes(code, bytes);
    }
  }
}

void Live::record(const Record& record) {
  reading_.read(record);
  const Note& note = record.note;
  switch (note.tail.action) {
  case Action::mark:
    return mark(note);
  case Action::step_begin:
    if (note.value2 == 0) // in no marked one
      step_ = {static_cast<int64_t>(note.value),
               stages_.name_of_open(static_cast<int64_t>(note.value)), true};
    return;
  case Action::step_end:
    if (std::cmp_not_equal(step_.number, note.value))
      return;
    step_.running = false;
    if (note.name != 0)
      step_.name = names_.of(note.name);
    return;
  default:
    return;
  }
}

void Live::mark(const Note& note) {
  const std::string_view kind = follower_.text().name(note.name);
  if (kind == "settings") {
    lifetimes_.set_settings(AllocatorSettings::from_json(follower_.text().name(note.text)));
  } else if (kind == "pool_ref") {
    lifetimes_.set_pool_rules(note.value, note.value2,
                              PoolRules::from_json(follower_.text().name(note.text)));
  } else if (kind == "pause") {
    paused_ = ever_paused_ = true;
    lifetimes_.pause();
  } else if (kind == "resume") {
    paused_ = false;
    lifetimes_.resume();
  }
}

// Where modules hang was read after allocations in them. What a backward has from its forward call
// stays as it was called then.
void Live::correct_owners() {
  lifetimes_.each_live([this](Allocation& allocation) {
    if (allocation.stack == 0 || allocation.forward_call_id != kNull)
      return;
    const StackFacts& facts = stacks_.facts(allocation.stack);
    if (facts.module == allocation.module && facts.source == allocation.source)
      return;
    allocation.module = facts.module;
    allocation.module_class = facts.module_class;
    allocation.source = facts.source;
    owners_.corrected(allocation);
  });
}

StringId Live::key_of(const LiveOwner& owner, LiveGrouping by) const {
  switch (by) {
  case LiveGrouping::category:
    return labels_.category(owner.category);
  case LiveGrouping::module:
    return owner.module;
  case LiveGrouping::op:
    return owner.op;
  default:
    return owner.source;
  }
}

std::vector<LiveGroup> Live::groups(DeviceCode code, LiveGrouping by) const {
  std::vector<LiveGroup> groups;
  std::unordered_map<StringId, size_t> places;
  for (const LiveOwners::Row& row : owners_.rows()) {
    const LiveOwner& owner = row.owner;
    const bool empty = row.now.blocks == 0 && row.peak.blocks == 0;
    if (owner.device != code || empty)
      continue;
    const StringId key = key_of(owner, by);
    const auto [place, is_new] = places.try_emplace(key, groups.size());
    if (is_new)
      groups.push_back({key, {}, {}});
    LiveGroup& group = groups[place->second];
    group.now.bytes += row.now.bytes;
    group.now.blocks += row.now.blocks;
    group.peak.bytes += row.peak.bytes;
    group.peak.blocks += row.peak.blocks;
  }
  return groups;
}

std::vector<Timeline::Values> Live::curve(DeviceCode code, size_t points) const {
  const Timeline* timeline = lifetimes_.timeline(code);
  if (!timeline)
    return std::vector<Timeline::Values>(points);
  const int64_t end_ns = reading_.last_time_ns() + 1;
  auto curve = timeline->curve(0, end_ns, points);
  if (code != kCpu)
    return curve;
  for (const auto& [time_ns, bytes] : owners_.found_late()) {
    const auto before = static_cast<size_t>(
        static_cast<double>(time_ns) / static_cast<double>(end_ns) * static_cast<double>(points));
    for (size_t point = 0; point < std::min(before, points); ++point)
      for (int64_t& value : curve[point])
        value += bytes;
  }
  return curve;
}

} // namespace memtrace
