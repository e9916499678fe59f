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

} // namespace

OperatorCalls::OperatorCalls(NameStrings& names, StackTable& stacks)
    : names_(names), stacks_(stacks) {
  static_assert(std::size(kScopes) == kScopeCount);
  for (size_t i = 0; i < kScopeCount; ++i)
    scopes_[i] = names.intern(kScopes[i]);
}

// The thread's open call of that number. Numbers rise with time, so a call with a greater number
// above it in the stack has ended, and its span was lost.
OperatorCalls::OpenCall& OperatorCalls::open(Thread& thread, uint32_t call, int64_t seq) {
  while (!thread.empty() && thread.back().call > call) {
    thread.pop_back();
    ++lost_spans_;
  }
  if (!thread.empty() && thread.back().call == call)
    return thread.back();
  if (thread.size() >= kMostOpenCalls) {
    thread.erase(thread.begin(), thread.begin() + kMostOpenCalls / 2);
    lost_spans_ += kMostOpenCalls / 2;
  }
  return thread.emplace_back(OpenCall{call, next_id_++, seq, 0, 0});
}

int64_t OperatorCalls::event(Thread& thread, uint32_t call, int64_t seq, int64_t allocated_bytes,
                             int64_t freed_bytes) {
  if (call == 0)
    return kNull;
  OpenCall& open_call = open(thread, call, seq);
  open_call.allocated_bytes += allocated_bytes;
  open_call.freed_bytes += freed_bytes;
  return open_call.id;
}

void OperatorCalls::span(Thread& thread, const OperatorSpan& span, int64_t seq,
                         int64_t start_time_ns, int64_t end_time_ns, Table& table) {
  const OpenCall done = open(thread, span.call, seq);
  thread.pop_back();
  int64_t parent_id = kNull;
  if (span.parent_call != 0 && span.parent_call < span.call) {
    OpenCall& parent = open(thread, span.parent_call, done.start_seq);
    parent.allocated_bytes += done.allocated_bytes;
    parent.freed_bytes += done.freed_bytes;
    parent_id = parent.id;
  }
  table.add(done.id, parent_id, names_.of(span.name),
            span.scope < kScopeCount ? scopes_[span.scope] : StringId::null,
            int64_t{span.tail.thread}, std::min(start_time_ns, end_time_ns), end_time_ns,
            done.start_seq, span.sequence_number < 0 ? kNull : span.sequence_number, kNull,
            stacks_.facts(span.stack).module, span.stack != 0 ? int64_t{span.stack} : kNull,
            done.allocated_bytes, done.freed_bytes);
}

} // namespace memtrace
