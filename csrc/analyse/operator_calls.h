// Operator calls in which something was allocated or freed, or a node of autograd was made: their
// ids and their bytes.
//
// An allocator event names its innermost call by (thread, number); the call's span is recorded when
// it ends, after its events and after the spans of the calls inside it. A thread's open calls nest,
// so a short stack per thread holds all that is not finished; memory is bounded by nesting. Every
// id that a row names has a row: a call whose end was not recorded (a killed process, a lost span)
// has one that knows neither its name nor its times.
#pragma once

#include "analyse/columns.h"
#include "analyse/name_strings.h"
#include "analyse/stack_facts.h"
#include "record/event.h"

#include <array>
#include <cstdint>
#include <vector>

namespace memtrace {

class OperatorCalls {
 public:
  struct OpenCall {
    uint32_t call;
    int64_t id;
    int64_t start_seq; // of the first allocator event in it
    int64_t allocated_bytes, freed_bytes;
  };
  struct Thread {
    uint32_t id = 0;            // the recorder's number of it
    std::vector<OpenCall> open; // outermost first
  };

  OperatorCalls(NameStrings& names, StackTable& stacks, Table& rows);

  // The call's id, counting the event's bytes in it. kNull for call 0.
  int64_t event(Thread& thread, uint32_t call, int64_t seq, int64_t allocated_bytes,
                int64_t freed_bytes);
  // A call ended: its row, whose id is returned. `forward_call_id`: of the call that it is the
  // backward of.
  int64_t span(Thread& thread, const OperatorSpan& span, int64_t seq, int64_t start_time_ns,
               int64_t end_time_ns, int64_t forward_call_id);
  // The recording is over: rows of the calls that are still open.
  void finish(Thread& thread);

  uint64_t lost_spans() const { return lost_spans_; }

 private:
  OpenCall& open(Thread& thread, uint32_t call, int64_t seq);
  int64_t parent_id(Thread& thread, const OperatorSpan& span, const OpenCall& done, bool was_open);
  void end_unknown(Thread& thread);

  // at::RecordScope, in its order.
  static constexpr size_t kScopeCount = 10;

  NameStrings& names_;
  std::array<StringId, kScopeCount> scopes_{};
  StackTable& stacks_;
  Table& rows_;
  int64_t next_id_ = 1;
  uint64_t lost_spans_ = 0;
};

} // namespace memtrace
