#include "analyse/stages.h"

#include "analyse/json.h"

#include <algorithm>
#include <ranges>

namespace memtrace {
namespace {

constexpr Place kNoPlace{kNull, kNull};

} // namespace

Stages::Stages(NameStrings& names, Table& stages, Table& steps)
    : names_(names), stage_rows_(stages), step_rows_(steps) {}

void Stages::stage_begin(const Note& note, Place place) {
  if (stages_.size() >= kMostOpen)
    return;
  const StringId kind = names_.of(note.text);
  const uint32_t thread = names_[kind] == "scope" ? note.tail.thread : 0;
  const auto parent = static_cast<int64_t>(note.value2);
  stages_.push_back({static_cast<int64_t>(note.value), parent != 0 ? parent : kNull,
                     names_.of(note.name), kind, thread, place});
  ++version_;
}

void Stages::stage_end(const Note& note, Place place) {
  const auto found = std::ranges::find(stages_.rbegin(), stages_.rend(),
                                       static_cast<int64_t>(note.value), &OpenStage::id);
  if (found == stages_.rend())
    return;
  add_stage(*found, place);
  stages_.erase(std::next(found).base());
  ++version_;
}

void Stages::step_begin(const Note& note, Place place) {
  if (steps_.size() >= kMostOpen)
    return;
  const OpenStage* stage = innermost(note.tail.thread);
  steps_.push_back({static_cast<int64_t>(note.value), stage ? stage->id : kNull,
                    names_.of(note.name), note.text, note.tail.thread, place});
  ++version_;
}

void Stages::step_end(const Note& note, Place place) {
  const auto found = std::ranges::find(steps_.rbegin(), steps_.rend(),
                                       static_cast<int64_t>(note.value), &OpenStep::step);
  if (found == steps_.rend())
    return;
  add_step(*found, place);
  steps_.erase(std::next(found).base());
  ++version_;
}

void Stages::finish() {
  for (const OpenStage& stage : stages_)
    add_stage(stage, kNoPlace);
  for (const OpenStep& step : steps_)
    add_step(step, kNoPlace);
  stages_.clear();
  steps_.clear();
  ++version_;
}

void Stages::add_stage(const OpenStage& stage, Place end) {
  stage_rows_.add(stage.id, stage.parent_id, stage.name, stage.kind, or_null(stage.thread),
                  stage.start.seq, end.seq, stage.start.time_ns, end.time_ns);
}

void Stages::add_step(const OpenStep& step, Place end) {
  const auto json = Json::parse(names_.text().name(step.text));
  const Json details = json.value_or(Json{});
  const Json& shapes = details["input_shapes"];
  const StringId shapes_text =
      shapes.type() == Json::Type::string ? names_.intern(shapes.string()) : StringId::null;
  const StringId kind =
      details["kind"].is_null() ? StringId::null : names_.intern(details["kind"].string());
  step_rows_.add(step.step, kind, step.stage_id, step.root_module, or_null(step.thread),
                 step.start.seq, end.seq, step.start.time_ns, end.time_ns,
                 details["batch_size"].integer(kNull), shapes_text);
}

const Stages::OpenStage* Stages::innermost(uint32_t thread) const {
  const OpenStage* process = nullptr;
  for (const OpenStage& stage : std::views::reverse(stages_)) {
    if (stage.thread == thread && thread != 0)
      return &stage;
    if (stage.thread == 0 && !process)
      process = &stage;
  }
  if (process || stages_.empty())
    return process;
  return &stages_.back();
}

Stages::Current Stages::current(uint32_t thread) const {
  Current current;
  if (const OpenStage* stage = innermost(thread))
    current.stage = stage->name;
  for (const OpenStep& step : std::views::reverse(steps_)) {
    if (current.step == kNull || step.thread == thread)
      current.step = step.step;
    if (step.thread == thread)
      break;
  }
  return current;
}

} // namespace memtrace
