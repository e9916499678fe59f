// The rows of all datasets (but `processes`, which is prose of the notes) of a process's records.
//
//     record -> RecordReading -> Lifetimes, OperatorCalls, Stages, TensorNotes -> Datasets ->
//     batches
//
// Whoever has the records adds them in order, and takes batches when they are full. One thread at a
// time.
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
#include "store/spool_reader.h"

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace memtrace {

class DatasetRows {
 public:
  // `text` must outlive this.
  DatasetRows(const TextTable& text, TickScale scale, size_t batch_rows, size_t part_rows);

  // Before the first record: what the spool, as far as it is written, says of what comes.
  void begin(const SpoolReader& reader);
  // Of a process that runs: what its text says by now. `notes`: of its own log, those to come.
  void read_on(std::span<const Record> notes);

  void add(const Record& record);
  // The tables that are full.
  void take_full(std::vector<Batch>& batches);
  // All rows that there are; those of finished allocations wait, to be put in order.
  void take_all(std::vector<Batch>& batches);
  // After the last record: all that is left.
  void finish(std::vector<Batch>& batches);

  const RecordReading& reading() const { return reading_; }
  TickScale& scale() { return scale_; }
  const Lifetimes& lifetimes() const { return lifetimes_; }
  TensorNotes& tensors() { return tensors_; }
  const Reconciliation& reconciliation() const { return reconciliation_; }
  // What did not fit together, by kind; all zero for a sound recording. `order_gaps`: that a merge
  // found.
  std::vector<std::pair<const char*, uint64_t>> oddities(uint64_t order_gaps) const;
  const Pauses& pauses() const { return pauses_; }
  // Text of the first `settings` mark, empty when there is none.
  const std::string& settings_text() const { return settings_text_; }
  // Models whose weights have no names: they were gone before a scan could look at them.
  size_t unscanned_models() const { return stacks_.unscanned_roots(); }
  Labels& labels() { return labels_; }
  const NameStrings& names() const { return names_; }

 private:
  void read_devices();
  void mark(const Note& note, Place place);
  void sample(const Note& note, Place place);
  void take(Table& table, std::vector<Batch>& batches, bool ends_part = false);
  void take_allocations(std::vector<Batch>& batches, bool ends_part);

  size_t batch_rows_, part_rows_;
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
  size_t process_notes_read_ = 0;
  bool have_settings_ = false;
};

} // namespace memtrace
