// The vocabulary of a recording: every record that a log can hold, as it lies on disk.
//
// Owner: the thread that writes it. A record is 64 bytes, written in place in a file-backed shared
// mapping and published by one release store of its last word, `Tail`. Invariants:
//   - a zero tail means "never written": it legally ends a chunk (a killed process leaves it so);
//   - only little-endian fixed-width fields, std only, no pointer of the writing process is
//   followed;
//   - a text id used by a record was written to text.log before the record was published.
#pragma once

#include <cstdint>
#include <type_traits>

namespace memtrace {

enum class Action : uint8_t {
  none = 0,
  // Allocator events; the names are torch's own (FORMAT.md, `events.action`).
  alloc = 1,
  free_requested = 2,
  free_completed = 3,
  segment_alloc = 4,
  segment_free = 5,
  segment_map = 6,
  segment_unmap = 7,
  oom = 8,
  snapshot = 9,
  preexisting = 10,
  external = 11,
  // What else happens at a place in the order of events.
  operator_span = 32,
  mark = 33,
  sample = 34,
  stage_begin = 35,
  stage_end = 36,
  step_begin = 37,
  step_end = 38,
};

constexpr bool is_allocator_event(Action action) {
  return action >= Action::alloc && action <= Action::external;
}

// Where the bytes of a CPU or external allocation lie (FORMAT.md, `allocations.memory`). For a CUDA
// event the same field of the tail is the id of its memory pool instead.
enum class Memory : uint16_t { device = 0, host = 1, pinned = 2, mapped = 3, shared = 4 };

// 0 is the CPU, 1 + i is cuda:i.
using DeviceCode = uint8_t;
constexpr DeviceCode kCpu = 0;
constexpr DeviceCode cuda_device(int index) {
  return static_cast<DeviceCode>(1 + index);
}

// The number of the process's main thread; others are numbered as they come. A note's may be 0: it
// is about the whole process.
constexpr uint32_t kMainThread = 1;

// Common to all records, published last. One word, so that one release store publishes the record.
struct Tail {
  uint32_t thread; // number of the thread in its process, from kMainThread; in text.log
  uint16_t pool;   // CUDA: pool id (0 = default); CPU: Memory
  DeviceCode device;
  Action action;
};

struct AllocatorEvent {
  uint64_t ticks; // of clock.h; alloc: after it happened, free: before
  uint64_t address;
  // Requested; 0 for a CPU free (known from its alloc), but not for one that a scan tells of: the
  // end of memory that was there before the recording, or that torch was handed.
  uint64_t size_bytes;
  uint64_t stream;   // CUDA stream handle; oom: free bytes of the device; pinned: block's bytes
  uint32_t call;     // OperatorSpan::call of the innermost running operator; 0: none
  uint32_t stack;    // text id; 0: not taken
  uint32_t op_name;  // text id: innermost operator that is not a factory, else outermost factory
  uint32_t top_name; // text id: outermost operator
  uint32_t order;    // CUDA: place in the device's own order, counted under torch's lock; 0: none
  // preexisting: its block's bytes / 512. Else RecordFunction's number of the thread that made the
  // forward call whose backward the outermost running node of autograd is; 0: none.
  uint32_t reserved;
  Tail tail;
};

// Written when the call ends, only when something was allocated or freed in it.
struct OperatorSpan {
  uint64_t ticks; // end
  uint64_t start_ticks;
  int64_t sequence_number;    // autograd's; -1: none
  uint64_t forward_thread;    // RecordFunction's thread number of the forward call; 0: none
  uint32_t call, parent_call; // numbers within the thread, from 1
  uint32_t name;              // text id
  uint32_t stack;             // text id; 0: not taken
  uint32_t scope;             // at::RecordScope
  uint32_t reserved;
  Tail tail;
};

// mark:   name = kind (FORMAT.md `marks.kind`), text = its text, value/value2 = pool id (two words)
// sample: name = metric, target = target, source = source, reason = reason, value = bytes, text
// stage_begin: name = stage name, value = stage id, value2 = id of the block around it, text =
// kind:
//   "scope", a block, or "user", which lasts until the next such one in the same place (block and
//   thread) or until that block ends. The second kind is written when it is not known yet whether
//   a block will be made of it; with a "scope" of the same id later, the first was no stage.
// stage_end: name, value
// step_*:  name = root module, value = step number, text = JSON {kind, batch_size, input_shapes}
struct Note {
  uint64_t ticks;
  uint64_t value;
  uint64_t value2;
  uint32_t name, text, target, reason, source; // text ids; 0: none
  uint32_t reserved[3];
  Tail tail;
};

union Record {
  AllocatorEvent event;
  OperatorSpan span;
  Note note;
};

static_assert(sizeof(Tail) == 8 && sizeof(AllocatorEvent) == 64 && sizeof(OperatorSpan) == 64 &&
              sizeof(Note) == 64 && sizeof(Record) == 64);
static_assert(std::is_trivially_copyable_v<Record>);

} // namespace memtrace
