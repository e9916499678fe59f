#include "analyse/forward_calls.h"

#include <algorithm>

namespace memtrace {
namespace {

// Deeper than backward passes nest. Contexts beyond it are those whose end was not recorded.
constexpr size_t kMostContexts = 256;
constexpr size_t kFirstSlots = 16; // many threads make few nodes
constexpr int64_t kMostNumber = int64_t{1} << 62;

const ForwardCalls::Context kNoContext;

} // namespace

ForwardCalls::ForwardCalls(NameStrings& names, StackTable& stacks, size_t most_calls)
    : names_(names), stacks_(stacks), numbers_(names.text()), most_calls_(most_calls) {}

void ForwardCalls::begin(const ContextBegin& begin) {
  auto& contexts = threads_[begin.tail.thread].contexts;
  if (contexts.size() >= kMostContexts)
    contexts.erase(contexts.begin());
  Context context{begin.call, begin.kind, static_cast<uint32_t>(begin.forward_thread), {}};
  if (context.is_backward()) {
    context.forward = find(begin.forward_thread, begin.sequence_number);
    if (context.forward.thread != 0)
      context.forward_thread = context.forward.thread;
  }
  contexts.push_back(context);
}

// Of contexts that are open, one that began later has a greater number: those above it have ended.
const ForwardCalls::Context& ForwardCalls::context(uint32_t thread, uint32_t call) {
  call &= ~kRecordsGraph;
  if (call == 0)
    return kNoContext;
  auto& contexts = threads_[thread].contexts;
  while (!contexts.empty() && contexts.back().call > call)
    contexts.pop_back();
  return !contexts.empty() && contexts.back().call == call ? contexts.back() : kNoContext;
}

void ForwardCalls::end(const OperatorSpan& span, int64_t id, int64_t step) {
  const Context around = context(span.tail.thread, span.context);
  Thread& thread = threads_[span.tail.thread];
  if (span.nodes > 0 && span.sequence_number >= 0 && span.sequence_number < kMostNumber) {
    ForwardCall call{id, step, names_.of(span.name), owner(around, span.stack),
                     around.is_backward() ? around.forward_thread : 0};
    if (around.knows_forward())
      call.step = around.forward.step;
    if (!thread.calls.empty())
      note_use(thread);
    const int64_t end = span.sequence_number + span.nodes;
    for (int64_t number = span.sequence_number; number < end; ++number) {
      Slot& made = slot(thread, number);
      if (made.number != number) // else by a call inside this one
        made = {number, call};
    }
  }
  if (around.call != 0 && around.call == (span.call & ~kRecordsGraph))
    thread.contexts.pop_back();
}

ForwardCalls::Slot& ForwardCalls::slot(Thread& thread, int64_t number) {
  for (;;) {
    if (!thread.calls.empty()) {
      Slot& found = thread.calls[static_cast<size_t>(number) & (thread.calls.size() - 1)];
      if (found.number < 0 || found.number == number)
        return found;
    }
    if (!grow(thread))
      return thread.calls[static_cast<size_t>(number) & (thread.calls.size() - 1)];
  }
}

// False: it is as large as it may be.
bool ForwardCalls::grow(Thread& thread) {
  const size_t size = thread.calls.size();
  if (size >= most_calls_)
    return false;
  const size_t larger_size = std::max(size * 2, kFirstSlots);
  while (slots_ + larger_size - size > kMostCallsInAll) {
    // The thread's own ring is the one that was used last, and alone it would fit.
    if (larger_size > kLeastCalls)
      return false;
    give_up_oldest();
  }
  std::vector<Slot> larger(larger_size);
  for (const Slot& slot : thread.calls)
    if (slot.number >= 0)
      larger[static_cast<size_t>(slot.number) & (larger_size - 1)] = slot;
  if (size == 0)
    thread.use = uses_.insert(uses_.end(), &thread);
  slots_ += larger_size - size;
  thread.calls = std::move(larger);
  return true;
}

void ForwardCalls::give_up_oldest() {
  Thread& oldest = *uses_.front();
  for (const Slot& slot : oldest.calls)
    oldest.given_up = std::max(oldest.given_up, slot.number);
  slots_ -= oldest.calls.size();
  oldest.calls = {};
  uses_.pop_front();
}

ForwardCall ForwardCalls::find(uint64_t forward_thread, int64_t number) {
  const auto found = threads_.find(numbers_.recorded(forward_thread));
  if (number < 0 || found == threads_.end())
    return {};
  Thread& thread = found->second;
  if (!thread.calls.empty()) {
    note_use(thread);
    const Slot& slot = thread.calls[static_cast<size_t>(number) & (thread.calls.size() - 1)];
    if (slot.number == number)
      return slot.call;
    if (slot.number > number) {
      ++forgotten_;
      return {};
    }
  }
  forgotten_ += number <= thread.given_up ? 1 : 0;
  return {};
}

bool ForwardCalls::is_recompute(const Context& context, uint32_t stack) {
  return context.is_backward() && stacks_.facts(stack).in_engine == InEngine::recompute;
}

Owner ForwardCalls::owner(const Context& context, uint32_t stack) {
  const StackFacts& facts = stacks_.facts(stack);
  Owner own{facts.module, facts.module_class, facts.source};
  if (!context.knows_forward())
    return own;
  Owner owner = context.forward.owner;
  if (facts.in_engine != InEngine::nothing)
    owner.source = own.source;
  if (facts.module_in_engine) {
    owner.module = own.module;
    owner.module_class = own.module_class;
  }
  return owner;
}

} // namespace memtrace
