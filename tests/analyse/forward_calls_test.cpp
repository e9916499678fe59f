#include "analyse/forward_calls.h"
#include "store/spool_builder.h"

#include <doctest/doctest.h>

using namespace memtrace;

namespace {

constexpr uint64_t kForwardThread = 21, kLastNumber = 23; // RecordFunction's numbers
constexpr uint32_t kForward = 1, kEngine = 2, kLastThread = 3;

struct Calls {
  Calls() : text(write()), names(text), stacks(names), calls(names, stacks) {}

  // text.log with nothing but the threads' numbers.
  std::string write() {
    for (const auto& [thread, number] :
         {std::pair(kForward, kForwardThread), {kEngine, 22}, {kLastThread, kLastNumber}}) {
      const ThreadText fields{1000, number};
      spool.text_frame(TextKind::thread, thread,
                       {reinterpret_cast<const char*>(&fields), sizeof fields});
    }
    return spool.write() + "/text.log";
  }
  void made_nodes(int64_t number, uint16_t nodes, int64_t id, uint32_t thread = kForward) {
    OperatorSpan span{};
    span.sequence_number = number;
    span.nodes = nodes;
    span.call = ++last_call;
    span.tail.thread = thread;
    calls.end(span, id, kNull);
  }
  // The id of the call that a node of that number is the backward of.
  int64_t forward_of(int64_t number, uint64_t forward_thread = kForwardThread) {
    ContextBegin begin{};
    begin.call = ++last_call;
    begin.kind = ContextKind::node;
    begin.sequence_number = number;
    begin.forward_thread = forward_thread;
    begin.tail.thread = kEngine;
    calls.begin(begin);
    return calls.context(kEngine, begin.call).forward.id;
  }

  test::SpoolBuilder spool;
  TextTable text;
  NameStrings names;
  StackTable stacks;
  ForwardCalls calls;
  uint32_t last_call = 0;
};

} // namespace

TEST_CASE("of calls inside each other the innermost made a node") {
  Calls calls;
  calls.made_nodes(7, 1, 1);
  calls.made_nodes(6, 4, 2);
  CHECK(calls.forward_of(7) == 1);
  CHECK(calls.forward_of(6) == 2);
  CHECK(calls.forward_of(9) == 2);
  CHECK(calls.forward_of(10) == kNull);
  CHECK(calls.forward_of(-1) == kNull);
  CHECK(calls.calls.forgotten() == 0);
}

TEST_CASE(
    "as many forward calls are known as is said, and an older one is counted when asked for") {
  Calls calls;
  constexpr auto kMost = static_cast<int64_t>(ForwardCalls::kMostCalls);
  for (int64_t number = 0; number < kMost + 10; ++number)
    calls.made_nodes(number, 1, number);
  CHECK(calls.forward_of(10) == 10);
  CHECK(calls.forward_of(kMost + 9) == kMost + 9);
  CHECK(calls.calls.forgotten() == 0);
  CHECK(calls.forward_of(9) == kNull);
  CHECK(calls.calls.forgotten() == 1);
}

TEST_CASE("threads that begin without end take the calls of the one that made nodes longest ago") {
  Calls calls;
  calls.made_nodes(0, 40, 1);
  for (uint32_t thread = kLastThread + 1; thread < 150'000; ++thread)
    calls.made_nodes(0, 1, thread, thread);
  calls.made_nodes(0, 1000, 2, kLastThread);
  CHECK(calls.forward_of(999, kLastNumber) == 2);
  CHECK(calls.forward_of(40) == kNull); // never made
  CHECK(calls.calls.forgotten() == 0);
  CHECK(calls.forward_of(39) == kNull);
  CHECK(calls.calls.forgotten() == 1);
  calls.made_nodes(40, 1, 3);
  CHECK(calls.forward_of(40) == 3);
  CHECK(calls.forward_of(39) == kNull);
  CHECK(calls.calls.forgotten() == 2);
}

TEST_CASE("contexts nest, and one that has ended is none") {
  Calls calls;
  const auto begin = [&](uint32_t call, ContextKind kind) {
    ContextBegin context{};
    context.call = call;
    context.kind = kind;
    context.tail.thread = kEngine;
    calls.calls.begin(context);
  };
  const auto kind = [&](uint32_t call) { return calls.calls.context(kEngine, call).kind; };
  begin(5, ContextKind::optimizer);
  begin(9, ContextKind::node);
  CHECK(kind(9 | kRecordsGraph) == ContextKind::node);
  CHECK(kind(5) == ContextKind::optimizer);
  CHECK(kind(9) == ContextKind::none);
  CHECK(kind(0) == ContextKind::none);
  OperatorSpan span{};
  span.call = span.context = 5;
  span.tail.thread = kEngine;
  calls.calls.end(span, 1, kNull);
  CHECK(kind(5) == ContextKind::none);
}
