#include "analyse/operator_calls.h"

#include <algorithm>
#include <iterator>

namespace memtrace {
namespace {

// Deeper than torch's operators nest. Calls beyond it are those whose spans were lost.
constexpr size_t kMostOpenCalls = 512;

constexpr const char* kScopes[] = {
    "function",          "backward_function",   "torchscript_function", "kernel_function_dtype",
    "custom_class",      "build_feature",       "lite_interpreter",     "user_scope",
    "static_runtime_op", "static_runtime_model"};

// Memory may come and go in a call without end: its sum then stays at what a number can hold.
void add_bytes(int64_t& sum, int64_t bytes) {
  if (__builtin_add_overflow(sum, bytes, &sum))
    sum = INT64_MAX;
}

} // namespace

OperatorCalls::OperatorCalls(NameStrings& names, StackTable& stacks, Table& rows)
    : names_(names), stacks_(stacks), rows_(rows) {
  static_assert(std::size(kScopes) == kScopeCount);
  for (size_t i = 0; i < kScopeCount; ++i)
    scopes_[i] = names.intern(kScopes[i]);
}

// The innermost open call is over, and how is not known.
void OperatorCalls::end_unknown(Thread& thread) {
  const OpenCall done = thread.open.back();
  thread.open.pop_back();
  int64_t parent_id = kNull;
  if (!thread.open.empty()) { // open as well: it is around this one
    OpenCall& parent = thread.open.back();
    add_bytes(parent.allocated_bytes, done.allocated_bytes);
    add_bytes(parent.freed_bytes, done.freed_bytes);
    parent_id = parent.id;
  }
  rows_.add(done.id, parent_id, StringId::null, StringId::null, int64_t{thread.id}, kNull, kNull,
            done.start_seq, kNull, kNull, StringId::null, kNull, done.allocated_bytes,
            done.freed_bytes);
}

void OperatorCalls::finish(Thread& thread) {
  while (!thread.open.empty())
    end_unknown(thread);
}

// The thread's open call of that number. Numbers rise with time, so a call with a greater number
// above it in the stack has ended, and its span was lost.
OperatorCalls::OpenCall& OperatorCalls::open(Thread& thread, uint32_t call, int64_t seq) {
  auto& open = thread.open;
  while (!open.empty() && open.back().call > call) {
    end_unknown(thread);
    ++lost_spans_;
  }
  if (!open.empty() && open.back().call == call)
    return open.back();
  if (open.size() >= kMostOpenCalls) {
    lost_spans_ += open.size();
    finish(thread);
  }
  return open.emplace_back(OpenCall{call, next_id_++, seq, 0, 0});
}

int64_t OperatorCalls::event(Thread& thread, uint32_t call, int64_t seq, int64_t allocated_bytes,
                             int64_t freed_bytes) {
  if (call == 0)
    return kNull;
  OpenCall& open_call = open(thread, call, seq);
  add_bytes(open_call.allocated_bytes, allocated_bytes);
  add_bytes(open_call.freed_bytes, freed_bytes);
  return open_call.id;
}

// No memory changed in a call that was not open: its parent, if it is open, only contains it.
int64_t OperatorCalls::parent_id(Thread& thread, const OperatorSpan& span, const OpenCall& done,
                                 bool was_open) {
  if (span.parent_call == 0 || span.parent_call >= span.call)
    return kNull;
  if (!was_open)
    return !thread.open.empty() && thread.open.back().call == span.parent_call
               ? thread.open.back().id
               : kNull;
  OpenCall& parent = open(thread, span.parent_call, done.start_seq);
  add_bytes(parent.allocated_bytes, done.allocated_bytes);
  add_bytes(parent.freed_bytes, done.freed_bytes);
  return parent.id;
}

int64_t OperatorCalls::span(Thread& thread, const OperatorSpan& span, int64_t seq,
                            int64_t start_time_ns, int64_t end_time_ns, int64_t forward_call_id) {
  const int64_t first_new = next_id_;
  const OpenCall done = open(thread, span.call, seq);
  thread.open.pop_back();
  const int64_t parent = parent_id(thread, span, done, done.id < first_new);
  rows_.add(done.id, parent, names_.of(span.name),
            span.scope < kScopeCount ? scopes_[span.scope] : StringId::null,
            int64_t{span.tail.thread}, std::min(start_time_ns, end_time_ns), end_time_ns,
            done.start_seq, span.sequence_number < 0 ? kNull : span.sequence_number,
            forward_call_id, stacks_.facts(span.stack).module,
            span.stack != 0 ? int64_t{span.stack} : kNull, done.allocated_bytes, done.freed_bytes);
  return done.id;
}

} // namespace memtrace
