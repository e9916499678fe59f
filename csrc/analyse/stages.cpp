#include "analyse/stages.h"

#include "analyse/json.h"

#include <algorithm>
#include <ranges>
#include <span>
#include <string_view>
#include <utility>

namespace memtrace {
namespace {

constexpr Place kNoPlace{kNull, kNull};
// What a stage is called whose name is empty, or found no memory while it was recorded.
constexpr std::string_view kNoName = "(no name)";

// Of all tensors of {"input_ids": [2, 128], ...} together.
int64_t elements_in(const Json& shapes) {
  int64_t sum = 0;
  for (const Json& shape : shapes.array()) {
    int64_t product = 1;
    for (const Json& size : shape.array())
      if (__builtin_mul_overflow(product, size.integer(), &product))
        return INT64_MAX;
    if (__builtin_add_overflow(sum, product, &sum))
      return INT64_MAX;
  }
  return sum;
}

} // namespace

Stages::Stages(NameStrings& names, Table& stages, Table& steps)
    : names_(names), stage_rows_(stages), step_rows_(steps), numbers_(names.text()) {}

void Stages::foresee_blocks(const ChunkRecords& chunk, size_t most_stages) {
  for (const Record& record : std::span(chunk.records, chunk.count)) {
    const Note& note = record.note;
    if (note.tail.action != Action::stage_begin || note.value > most_stages || !is_block(note))
      continue;
    if (blocks_.size() <= note.value)
      blocks_.resize(note.value + 1);
    blocks_[note.value] = true;
  }
}

bool Stages::is_block(const Note& note) {
  return names_[names_.of(note.text)] == "scope";
}

void Stages::stage_begin(const Note& note, Place place) {
  const bool block = is_block(note);
  if (stages_.size() >= kMostOpen || (!block && will_be_block(note.value)))
    return;
  const auto around = static_cast<int64_t>(note.value2);
  if (block) // begun as a plain one, in a recording that still runs: nobody could foresee it
    std::erase_if(stages_, [&](const OpenStage& stage) {
      return !stage.is_block && std::cmp_equal(stage.id, note.value);
    });
  else
    end_plain_in(around, place);
  const OpenStage* plain = plain_in(around);
  const int64_t parent = plain ? plain->id : around;
  const StringId name = note.name != 0 ? names_.of(note.name) : names_.intern(kNoName);
  stages_.push_back({static_cast<int64_t>(note.value), parent != 0 ? parent : kNull, around, name,
                     names_.of(note.text), note.tail.thread, block, place});
  ++version_;
}

void Stages::stage_end(const Note& note, Place place) {
  const auto found = std::ranges::find(stages_.rbegin(), stages_.rend(),
                                       static_cast<int64_t>(note.value), &OpenStage::id);
  if (found == stages_.rend())
    return;
  const OpenStage ended = *found;
  stages_.erase(std::next(found).base());
  if (ended.is_block)
    end_plain_in(ended.id, place);
  add_stage(ended, place);
  ++version_;
}

const Stages::OpenStage* Stages::plain_in(int64_t block) const {
  for (const OpenStage& stage : std::views::reverse(stages_))
    if (!stage.is_block && stage.block == block)
      return &stage;
  return nullptr;
}

void Stages::end_plain_in(int64_t block, Place place) {
  if (const OpenStage* plain = plain_in(block)) {
    add_stage(*plain, place);
    stages_.erase(stages_.begin() + (plain - stages_.data()));
  }
}

void Stages::step_begin(const Note& note, Place place) {
  if (steps_.size() >= kMostOpen || note.value == 0 || note.value > INT64_MAX) // damage
    return;
  const OpenStage* own = innermost(note.tail.thread);
  const OpenStage* stage = own ? own : shared();
  const Json details = Json::parse(names_.text().name(note.text)).value_or(Json{});
  const Json& name = details["name"];
  const Json& kind = details["kind"];
  const Json& shapes = details["input_shapes"];
  const Json& grad = details["grad_enabled"];
  const auto parent = static_cast<int64_t>(note.value2);
  OpenStep step{};
  step.step = static_cast<int64_t>(note.value);
  step.parent = open_marked(parent) ? parent : kNull;
  step.stage_id = stage ? stage->id : kNull;
  step.root_module = names_.of(note.name);
  step.name = name.is_null() ? StringId::null : names_.intern(name.string());
  step.kind = kind.is_null() ? StringId::null : names_.intern(kind.string());
  step.batch_size = details["batch_size"].integer(kNull);
  step.elements = elements_in(shapes);
  step.input_shapes = shapes.is_null() ? StringId::null : names_.intern(shapes.dump());
  step.grad_enabled = grad.is_null() ? kNull : int64_t{grad.boolean()};
  step.thread = note.tail.thread;
  step.start = place;
  if (!step.is_marked())
    tell_shapes(step);
  steps_.push_back(step);
  ++version_;
}

// To the marked steps that it lies in.
void Stages::tell_shapes(const OpenStep& call) {
  int64_t parent = call.parent;
  while (OpenStep* marked = open_marked(parent)) {
    if (call.input_shapes != StringId::null &&
        (marked->input_shapes == StringId::null || call.elements > marked->elements)) {
      marked->batch_size = call.batch_size;
      marked->elements = call.elements;
      marked->input_shapes = call.input_shapes;
    }
    parent = marked->parent < parent ? marked->parent : kNull; // else damage
  }
}

void Stages::step_end(const Note& note, Place place) {
  const auto found = std::ranges::find(steps_.rbegin(), steps_.rend(),
                                       static_cast<int64_t>(note.value), &OpenStep::step);
  if (found == steps_.rend())
    return;
  if (found->is_marked() && note.name != 0)
    found->name = names_.of(note.name);
  add_step(*found, place, names_.of(note.text));
  steps_.erase(std::next(found).base());
  ++version_;
}

void Stages::finish() {
  for (const OpenStage& stage : stages_)
    add_stage(stage, kNoPlace);
  for (const OpenStep& step : steps_)
    add_step(step, kNoPlace, StringId::null);
  stages_.clear();
  steps_.clear();
  ++version_;
}

void Stages::add_stage(const OpenStage& stage, Place end) {
  stage_rows_.add(stage.id, stage.parent_id, stage.name, stage.kind, or_null(stage.thread),
                  stage.start.seq, end.seq, stage.start.time_ns, end.time_ns);
}

void Stages::add_step(const OpenStep& step, Place end, StringId error) {
  step_rows_.add(step.step, step.kind, step.stage_id, step.root_module, or_null(step.thread),
                 step.start.seq, end.seq, step.start.time_ns, end.time_ns, step.batch_size,
                 step.input_shapes, step.grad_enabled, error, step.name, step.parent);
}

void Stages::in_step(const Note& note) {
  marked_steps_[note.tail.thread] = static_cast<int64_t>(note.value);
  ++version_;
}

Stages::OpenStep* Stages::open_marked(int64_t step) {
  for (OpenStep& open : std::views::reverse(steps_))
    if (open.step == step && open.is_marked())
      return &open;
  return nullptr;
}

StringId Stages::name_of_open(int64_t step) const {
  for (const OpenStep& open : std::views::reverse(steps_))
    if (open.step == step)
      return open.is_marked() ? open.name : open.root_module;
  return StringId::null;
}

// One that a task is still in, though it has ended, is none.
int64_t Stages::marked_step_of(uint32_t thread) const {
  const auto found = marked_steps_.find(thread);
  if (found == marked_steps_.end())
    return kNull;
  for (const OpenStep& open : std::views::reverse(steps_))
    if (open.step == found->second && open.is_marked())
      return open.step;
  return kNull;
}

// Of the thread's own.
const Stages::OpenStage* Stages::innermost(uint32_t thread) const {
  for (const OpenStage& stage : std::views::reverse(stages_))
    if (stage.thread == thread && thread != 0)
      return &stage;
  return nullptr;
}

const Stages::OpenStage* Stages::shared() const {
  for (const OpenStage& stage : std::views::reverse(stages_))
    if (stage.thread == 0 || stage.thread == kMainThread)
      return &stage;
  return nullptr;
}

Stages::Current Stages::current(uint32_t thread, uint32_t forward_thread) const {
  const OpenStage* stage = innermost(thread);
  if (!stage)
    stage = innermost(numbers_.recorded(forward_thread));
  if (!stage)
    stage = shared();
  Current current;
  if (stage)
    current.stage = stage->name;
  current.marked_step = marked_step_of(thread);
  if (current.marked_step == kNull && forward_thread != 0)
    current.marked_step = marked_step_of(numbers_.recorded(forward_thread));
  for (const OpenStep& step : std::views::reverse(steps_)) {
    if (step.is_marked())
      continue;
    const bool own = step.thread == thread;
    if (own || (forward_thread != 0 && current.step == kNull))
      current.step = step.step;
    current.in_own_step = own;
    if (own)
      break;
  }
  return current;
}

} // namespace memtrace
