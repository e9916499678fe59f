#include "analyse/record_reading.h"

#include <algorithm>

namespace memtrace {

Place RecordReading::read(const Record& record) {
  ++records_;
  const Action action = record.event.tail.action;
  const uint64_t ticks = record.event.ticks;
  // Rows in the order of seq have times in order as well, whatever the clocks of two cores say.
  last_time_ns_ = std::max(last_time_ns_, scale_.ns(ticks));
  tensors_.apply_before(ticks);
  const Place place{lifetimes_.next_seq(), last_time_ns_};
  if (is_allocator_event(action)) {
    lifetimes_.event(record.event, last_time_ns_);
    if (action == Action::external)
      tensors_.external(record.event.address);
  } else if (action == Action::tensor) {
    tensors_.tensor(record.tensor);
  } else if (action == Action::operator_span) {
    span(record.span, place);
  } else if (action == Action::context_begin) {
    forward_calls_.begin(record.context);
  } else {
    note(record.note, place);
  }
  return place;
}

void RecordReading::note(const Note& note, Place place) {
  switch (note.tail.action) {
  case Action::mark:
  case Action::sample:
    return;
  case Action::stage_begin:
    return stages_.stage_begin(note, place);
  case Action::stage_end:
    return stages_.stage_end(note, place);
  case Action::step_begin:
    return stages_.step_begin(note, place);
  case Action::step_end:
    return stages_.step_end(note, place);
  case Action::in_step:
    return stages_.in_step(note);
  default:
    ++unknown_records_;
  }
}

void RecordReading::span(const OperatorSpan& span, Place place) {
  const uint32_t thread = span.tail.thread;
  const ForwardCalls::Context& context = forward_calls_.context(thread, span.context);
  const bool itself = context.call == (span.call & ~kRecordsGraph);
  const int64_t id =
      calls_.span(lifetimes_.calls_of(thread), span, place.seq, scale_.ns(span.start_ticks),
                  place.time_ns, itself ? context.forward.id : kNull);
  forward_calls_.end(span, id, span.nodes > 0 ? stages_.current(thread, 0).step : kNull);
}

} // namespace memtrace
