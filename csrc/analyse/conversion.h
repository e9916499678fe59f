// A spool into the rows of all datasets (but `processes`, which is prose of the notes).
//
//     SpoolReader -> RecordMerge -> RecordReading -> Lifetimes, OperatorCalls, Stages, TensorNotes
//                                                    -> Datasets -> batches
//
// Streaming: advance() reads on until some batch is full. One thread at a time.
#pragma once

#include "analyse/datasets.h"
#include "analyse/forward_calls.h"
#include "analyse/labels.h"
#include "analyse/lifetimes.h"
#include "analyse/name_strings.h"
#include "analyse/operator_calls.h"
#include "analyse/pauses.h"
#include "analyse/reconcile.h"
#include "analyse/record_reading.h"
#include "analyse/stack_facts.h"
#include "analyse/stages.h"
#include "analyse/tensor_notes.h"
#include "store/record_merge.h"
#include "store/spool_reader.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace memtrace {

class Conversion {
 public:
  // `reader` must outlive this.
  Conversion(const SpoolReader& reader, size_t batch_rows, size_t part_rows);

  // Reads on; the batches that are full, and at the end all the rest.
  std::vector<Batch> advance();
  bool finished() const { return finished_; }
  uint64_t consumed() const { return reading_.records(); } // records

  const Lifetimes& lifetimes() const { return lifetimes_; }
  Lifetimes& lifetimes() { return lifetimes_; }
  const Reconciliation& reconciliation() const { return reconciliation_; }
  // What did not fit together, by kind; all zero for a sound recording.
  std::vector<std::pair<const char*, uint64_t>> oddities() const;
  const Pauses& pauses() const { return pauses_; }
  // Text of the first `settings` mark, empty when there is none.
  const std::string& settings_text() const { return settings_text_; }
  // Models whose weights have no names: they were gone before a scan could look at them.
  size_t unscanned_models() const { return stacks_.unscanned_roots(); }
  int64_t last_time_ns() const { return reading_.last_time_ns(); }
  Labels& labels() { return labels_; }
  const NameStrings& names() const { return names_; }

 private:
  void read_devices();
  void record(const Record& record);
  void mark(const Note& note, Place place);
  void sample(const Note& note, Place place);
  void take(Table& table, std::vector<Batch>& batches, bool ends_part = false);
  void take_full(std::vector<Batch>& batches);
  void take_allocations(std::vector<Batch>& batches, bool ends_part);
  void finish(std::vector<Batch>& batches);

  const SpoolReader& reader_;
  size_t batch_rows_, part_rows_;
  RecordMerge merge_;
  TickScale scale_;
  NameStrings names_;
  Datasets out_;
  Labels labels_;
  StackTable stacks_;
  OperatorCalls calls_;
  ForwardCalls forward_calls_;
  Stages stages_;
  Lifetimes lifetimes_;
  TensorNotes tensors_;
  RecordReading reading_;
  Reconciliation reconciliation_;
  Pauses pauses_;
  std::string settings_text_;
  bool have_settings_ = false, finished_ = false;
};

} // namespace memtrace
