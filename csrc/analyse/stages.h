// Stages and steps: which are open, which one an allocation belongs to, and their rows.
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
#include <vector>

namespace memtrace {

class Stages {
 public:
  struct Current {
    StringId stage = StringId::null;
    int64_t step = kNull;
    bool in_own_step = false; // the thread is in a step of its own
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
  // The rows of what is still open when the recording ends: without an end.
  void finish();

  // What an allocation of the thread belongs to: the innermost block of its own; else, in a
  // backward pass, that of the thread that ran the forward one (by RecordFunction's number; 0:
  // none); else what the main thread or the whole process began last. Its step is its thread's own;
  // in a backward pass else the one that was begun last.
  Current current(uint32_t thread, uint32_t forward_thread) const;
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
    int64_t step, stage_id;
    StringId root_module;
    uint32_t text;
    uint32_t thread;
    Place start;
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

  NameStrings& names_;
  Table& stage_rows_;
  Table& step_rows_;
  const ThreadNumbers numbers_;
  std::vector<bool> blocks_; // by id
  std::vector<OpenStage> stages_;
  std::vector<OpenStep> steps_;
  uint64_t version_ = 1;
};

} // namespace memtrace
