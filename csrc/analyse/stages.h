// Stages and steps: which are open, which one an allocation belongs to, and their rows.
//
// A step is a call of a model, of its thread; or one that the program marked (a request), which
// goes with a task: threads say which one they are in. Calls lie in marked steps.
//
// A block belongs to the thread that entered it, a plain stage to the block it was begun in, or to
// the whole process. What a plain stage ends, and what a stage lies in, follows from the order of
// the notes alone, so threads that note at the same time need not agree on it beforehand.
#pragma once

#include "analyse/columns.h"
#include "analyse/name_strings.h"
#include "analyse/segments.h"
#include "record/event.h"
#include "store/spool_reader.h"
#include "store/thread_numbers.h"

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace memtrace {

class Stages {
 public:
  struct Current {
    StringId stage = StringId::null;
    int64_t step = kNull;        // a model's call
    int64_t marked_step = kNull; // the innermost
    bool in_own_step = false;    // the thread is in a model's call of its own
  };

  Stages(NameStrings& names, Table& stages, Table& steps);

  // Before everything else, with each chunk of the recorder's own log: which stages will be blocks.
  // That shows only when one is entered, after a plain stage of the same id was begun. Ids count
  // stages, so an honest one is not above `most_stages`.
  void foresee_blocks(const ChunkRecords& chunk, size_t most_stages);

  void stage_begin(const Note& note, Place place);
  void stage_end(const Note& note, Place place);
  void step_begin(const Note& note, Place place);
  void step_end(const Note& note, Place place);
  void in_step(const Note& note);
  // The rows of what is still open when the recording ends: without an end.
  void finish();

  // What an allocation of the thread belongs to: the innermost block of its own; else, in a
  // backward pass, that of the thread that ran the forward one (by RecordFunction's number; 0:
  // none); else what the main thread or the whole process began last. Its step is its thread's own;
  // in a backward pass else the one that was begun last.
  Current current(uint32_t thread, uint32_t forward_thread) const;
  // Of a step that has not ended: its own name, or the class of the model that was called.
  StringId name_of_open(int64_t step) const;
  // Changes whenever current() may give another answer.
  uint64_t version() const { return version_; }

 private:
  struct OpenStage {
    int64_t id, parent_id;
    int64_t block; // that it was begun in; 0: none
    StringId name, kind;
    uint32_t thread; // 0: the whole process
    bool is_block;
    Place start;
  };
  struct OpenStep {
    int64_t step;
    int64_t parent; // the marked step that it lies in; kNull
    int64_t stage_id;
    StringId root_module; // null: it is marked
    StringId name;        // of a marked one
    StringId kind;        // null: not known yet
    // Of a marked step: those of the call in it that was given most elements.
    int64_t batch_size, elements;
    StringId input_shapes;
    int64_t grad_enabled;
    uint32_t thread;
    Place start;

    bool is_marked() const { return name != StringId::null; }
  };
  // As many as a program can sensibly hold open; more are damage.
  static constexpr size_t kMostOpen = size_t{1} << 16;

  bool is_block(const Note& note);
  bool will_be_block(uint64_t id) const { return id < blocks_.size() && blocks_[id]; }
  const OpenStage* plain_in(int64_t block) const;
  void end_plain_in(int64_t block, Place place);
  void add_stage(const OpenStage& stage, Place end);
  void add_step(const OpenStep& step, Place end, StringId error);
  const OpenStage* innermost(uint32_t thread) const;
  const OpenStage* shared() const;
  OpenStep* open_marked(int64_t step);
  int64_t marked_step_of(uint32_t thread) const;
  void tell_shapes(const OpenStep& call);

  NameStrings& names_;
  Table& stage_rows_;
  Table& step_rows_;
  const ThreadNumbers numbers_;
  std::vector<bool> blocks_; // by id
  std::vector<OpenStage> stages_;
  std::vector<OpenStep> steps_;
  std::unordered_map<uint32_t, int64_t> marked_steps_; // by thread; it may have ended
  uint64_t version_ = 1;
};

} // namespace memtrace
