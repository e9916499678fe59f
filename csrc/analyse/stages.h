// Stages and steps: which are open, which one an allocation belongs to, and their rows.
#pragma once

#include "analyse/columns.h"
#include "analyse/name_strings.h"
#include "analyse/segments.h"
#include "record/event.h"

#include <cstdint>
#include <vector>

namespace memtrace {

class Stages {
 public:
  struct Current {
    StringId stage = StringId::null;
    int64_t step = kNull;
  };

  Stages(NameStrings& names, Table& stages, Table& steps);

  void stage_begin(const Note& note, Place place);
  void stage_end(const Note& note, Place place);
  void step_begin(const Note& note, Place place);
  void step_end(const Note& note, Place place);
  // The rows of what is still open when the recording ends: without an end.
  void finish();

  // What an allocation of the thread belongs to: the innermost of its own; else what is open for
  // the whole process; else, as for autograd's threads, the innermost of any thread.
  Current current(uint32_t thread) const;
  // Changes whenever current() may give another answer.
  uint64_t version() const { return version_; }

 private:
  struct OpenStage {
    int64_t id, parent_id;
    StringId name, kind;
    uint32_t thread; // 0: the whole process
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
  static constexpr size_t kMostOpen = 1024;

  void add_stage(const OpenStage& stage, Place end);
  void add_step(const OpenStep& step, Place end);
  const OpenStage* innermost(uint32_t thread) const;

  NameStrings& names_;
  Table& stage_rows_;
  Table& step_rows_;
  std::vector<OpenStage> stages_;
  std::vector<OpenStep> steps_;
  uint64_t version_ = 1;
};

} // namespace memtrace
