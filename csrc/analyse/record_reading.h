// What each record means to the parts that an analysis is made of: the same for a finished spool
// (Conversion) and for one that is still written (Live). One thread at a time.
#pragma once

#include "analyse/forward_calls.h"
#include "analyse/lifetimes.h"
#include "analyse/operator_calls.h"
#include "analyse/stages.h"
#include "analyse/tensor_notes.h"
#include "record/event.h"
#include "store/tick_scale.h"

#include <cstdint>

namespace memtrace {

class RecordReading {
 public:
  // All of them must outlive this.
  RecordReading(const TickScale& scale, OperatorCalls& calls, ForwardCalls& forward_calls,
                Stages& stages, Lifetimes& lifetimes, TensorNotes& tensors)
      : scale_(scale), calls_(calls), forward_calls_(forward_calls), stages_(stages),
        lifetimes_(lifetimes), tensors_(tensors) {}

  // Tells the parts. Where the record is: marks and samples are left to the caller.
  Place read(const Record& record);

  uint64_t records() const { return records_; } // read so far
  uint64_t unknown_records() const { return unknown_records_; }
  int64_t last_time_ns() const { return last_time_ns_; }

 private:
  void note(const Note& note, Place place);
  void span(const OperatorSpan& span, Place place);

  const TickScale& scale_;
  OperatorCalls& calls_;
  ForwardCalls& forward_calls_;
  Stages& stages_;
  Lifetimes& lifetimes_;
  TensorNotes& tensors_;
  uint64_t records_ = 0, unknown_records_ = 0;
  int64_t last_time_ns_ = 0;
};

} // namespace memtrace
