// Which forward call memory belongs to: the call that made the node of autograd which allocates.
//
// A node has a number, and so has an operator that is called while autograd records: the one that
// the next node on its thread will get. So a node was made by the innermost call whose numbers
// include its own. Calls are kept by number, as many as a graph can sensibly hold: a ring per
// thread that grows to kMostCalls, all together to kMostCallsInAll. Programs that begin threads
// without end are served too: when all is used, a thread gets its first kLeastCalls in place of the
// ring that was used longest ago. A call that gave way is counted when it is asked for.
//
// Contexts: what event.h calls ContextBegin, with the forward call found when it began.
#pragma once

#include "analyse/columns.h"
#include "analyse/name_strings.h"
#include "analyse/stack_facts.h"
#include "record/event.h"
#include "store/thread_numbers.h"

#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

namespace memtrace {

// Where in the program memory is said to come from.
struct Owner {
  StringId module = StringId::null, module_class = StringId::null, source = StringId::null;
};

struct ForwardCall {
  int64_t id = kNull; // of its row in `operators`
  int64_t step = kNull;
  StringId name = StringId::null;
  // Of a call in a backward pass itself (create_graph): of the forward call that it stems from.
  Owner owner;
  uint32_t thread = 0; // likewise: RecordFunction's number
};

class ForwardCalls {
 public:
  struct Context {
    uint32_t call = 0; // 0: none
    ContextKind kind = ContextKind::none;
    uint32_t forward_thread = 0; // RecordFunction's number of the thread of the forward pass
    ForwardCall forward;         // its id is kNull when it is not known

    bool is_backward() const { return kind == ContextKind::node || kind == ContextKind::engine; }
    bool knows_forward() const { return is_backward() && forward.id != kNull; }
  };

  static constexpr size_t kMostCalls = size_t{1} << 20;
  static constexpr size_t kMostCallsInAll = size_t{1} << 21;
  static constexpr size_t kLeastCalls = 1024; // that a thread may have in any case

  // `most_calls`: of one thread; a power of two.
  ForwardCalls(NameStrings& names, StackTable& stacks, size_t most_calls = kMostCalls);

  void begin(const ContextBegin& begin);
  // The context that a record of the thread names; one with call 0 when there is none.
  const Context& context(uint32_t thread, uint32_t call);
  // A call ended, whose row is `id`. `step`: that it was made in.
  void end(const OperatorSpan& span, int64_t id, int64_t step);

  // Whose memory with that stack is, allocated in that context.
  Owner owner(const Context& context, uint32_t stack);
  // Forward code that checkpointing computes again within a backward.
  bool is_recompute(const Context& context, uint32_t stack);

  uint64_t forgotten() const { return forgotten_; }

 private:
  struct Slot {
    int64_t number = -1;
    ForwardCall call;
  };
  struct Thread {
    std::vector<Context> contexts;    // outermost first
    std::vector<Slot> calls;          // by number, modulo its size, a power of two
    std::list<Thread*>::iterator use; // of uses_, while there are calls
    int64_t given_up = -1;            // up to this number calls were in a ring that is gone
  };

  ForwardCall find(uint64_t forward_thread, int64_t number);
  Slot& slot(Thread& thread, int64_t number);
  bool grow(Thread& thread);
  void give_up_oldest();
  void note_use(Thread& thread) { uses_.splice(uses_.end(), uses_, thread.use); }

  NameStrings& names_;
  StackTable& stacks_;
  const ThreadNumbers numbers_;
  const size_t most_calls_;
  std::unordered_map<uint32_t, Thread> threads_; // by the recorder's number
  std::list<Thread*> uses_;                      // of their rings, the last one at the end
  size_t slots_ = 0;
  uint64_t forgotten_ = 0;
};

} // namespace memtrace
