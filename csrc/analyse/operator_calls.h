// Operator calls in which something was allocated or freed: their ids and their bytes.
//
// An allocator event names its innermost call by (thread, number); the call's span is recorded when
// it ends, after its events and after the spans of the calls inside it. A thread's open calls nest,
// so a short stack per thread holds all that is not finished; memory is bounded by nesting.
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
  using Thread = std::vector<OpenCall>; // outermost first

  OperatorCalls(NameStrings& names, StackTable& stacks);

  // The call's id, counting the event's bytes in it. kNull for call 0.
  int64_t event(Thread& thread, uint32_t call, int64_t seq, int64_t allocated_bytes,
                int64_t freed_bytes);
  // A call ended: its row. `thread_id` is the recorder's number of the thread.
  void span(Thread& thread, const OperatorSpan& span, int64_t seq, int64_t start_time_ns,
            int64_t end_time_ns, Table& table);

  uint64_t lost_spans() const { return lost_spans_; }

 private:
  OpenCall& open(Thread& thread, uint32_t call, int64_t seq);

  // at::RecordScope, in its order.
  static constexpr size_t kScopeCount = 10;

  NameStrings& names_;
  std::array<StringId, kScopeCount> scopes_{};
  StackTable& stacks_;
  int64_t next_id_ = 1;
  uint64_t lost_spans_ = 0;
};

} // namespace memtrace
