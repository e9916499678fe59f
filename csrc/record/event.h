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
  context_begin = 39,
  tensor = 40,
  in_step = 41,
};

constexpr bool is_allocator_event(Action action) {
  return action >= Action::alloc && action <= Action::external;
}

// Where the bytes of a CPU or external allocation lie (FORMAT.md, `allocations.memory`). For a CUDA
// event the same field of the tail is the id of its memory pool instead: 0 is the default one.
enum class Memory : uint16_t { device = 0, host = 1, pinned = 2, mapped = 3, shared = 4 };
// All pools of a recording beyond those that it can number (Loss::pool_unnumbered).
constexpr uint16_t kUnnumberedPool = UINT16_MAX;

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
  uint64_t ticks;   // of clock.h; alloc: after it happened, free: before
  uint64_t address; // oom: the CUDA stream that it was asked for
  // Requested; 0 for a CPU free (known from its alloc), but not for one that a scan tells of: the
  // end of memory that was there before the recording, or that torch was handed.
  uint64_t size_bytes;
  // CUDA stream handle; oom: free bytes of the device (CPU: that the host had available, 0 if not
  // known); pinned: block's bytes
  uint64_t stream;
  uint32_t call;     // OperatorSpan::call of the innermost running operator; 0: none
  uint32_t stack;    // text id; 0: not taken
  uint32_t op_name;  // text id: innermost operator that is not a factory, else outermost factory
  uint32_t top_name; // text id: outermost operator
  // CUDA: place in the device's own order, counted under torch's lock; what is listed has that of
  // the event before it. 0: none
  uint32_t order;
  // preexisting: its block's bytes / 512. Else ContextBegin::call of the context that the thread is
  // in (0: none), and kRecordsGraph.
  uint32_t context;
  Tail tail;
};

// In AllocatorEvent::context: an operator is under way, inside the context if there is one, that
// records autograd's graph (it has a sequence number).
constexpr uint32_t kRecordsGraph = uint32_t{1} << 31;

enum class ContextKind : uint8_t {
  none = 0,
  node = 1,      // a node of autograd runs
  engine = 2,    // autograd's engine between two nodes: an operator that adds up gradients
  optimizer = 3, // Optimizer.step
};

// The innermost running call that says why memory changes: written once, just before the first
// event in it. Its own span comes later, as any call's.
struct ContextBegin {
  uint64_t ticks;
  // Of the node (of an engine's: of the node that ran before it on this thread): the forward call
  // that it is the backward of is the last that began with this number on that thread.
  int64_t sequence_number; // -1: none
  uint64_t forward_thread; // RecordFunction's number; 0: none
  uint32_t call;           // number within the thread
  ContextKind kind;
  uint8_t reserved0[3];
  uint64_t reserved[3];
  Tail tail;
};

// "At this tick, the storage at this address is that": an input or output of a model's call, a
// gradient, a state of an optimizer. The device and the thread are the tail's.
struct TensorRecord {
  uint64_t ticks;
  uint64_t address;      // of the storage
  uint64_t size_bytes;   // of the storage
  uint64_t offset_bytes; // of the tensor in it
  uint32_t name;         // text id: "input_ids", "grad of h.0.mlp.c_fc.weight"
  uint32_t kind;         // text id: FORMAT.md `names.kind`
  uint32_t layout;       // text id: dtype and shape, "float32 2x8x64"; a scalar: "float32"
  uint32_t reserved0;
  uint64_t reserved;
  Tail tail;
};

// Written when the call ends, only when something was allocated or freed in it, or when it made
// nodes of autograd's graph whose backward may allocate.
struct OperatorSpan {
  uint64_t ticks; // end
  uint64_t start_ticks;
  // Autograd's; -1: none. Of an operator: the number that the next node on this thread was to get.
  int64_t sequence_number;
  uint64_t forward_thread;    // RecordFunction's thread number of the forward call; 0: none
  uint32_t call, parent_call; // numbers within the thread, from 1
  uint32_t name;              // text id
  uint32_t stack;             // text id; 0: not taken
  uint16_t scope;             // at::RecordScope
  // Nodes made in the call, when some were made by none of the calls inside it: their numbers go
  // from sequence_number on. 0: all belong to calls inside.
  uint16_t nodes;
  uint32_t context; // ContextBegin::call of the context that it is in, or is; 0: none
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
// step_begin: name = class of the root module, value = step number, value2 = number of the marked
//   step around it (0: none), text = JSON {batch_size, input_shapes, grad_enabled}; input_shapes is
//   an object: name -> list. Of a step that the program marked: name = 0, text = JSON {name, kind}
// step_end: value = step number, text = class of the exception that ended it; 0: none; name = of a
//   marked step: what it is called, where that is known at its end only
// in_step: value = number of the marked step that the tail's thread is in from here on; 0: none
// mark backward_begin, backward_end (value = autograd's graph task), optimizer_begin,
// optimizer_end,
//   recompute_begin, recompute_end (a model's call inside a backward), tensors_left_out (text =
//   how many of a call's were not written): of the tail's thread
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
  ContextBegin context;
  TensorRecord tensor;
};

static_assert(sizeof(Tail) == 8 && sizeof(AllocatorEvent) == 64 && sizeof(OperatorSpan) == 64 &&
              sizeof(Note) == 64 && sizeof(ContextBegin) == 64 && sizeof(TensorRecord) == 64 &&
              sizeof(Record) == 64);
static_assert(std::is_trivially_copyable_v<Record>);

} // namespace memtrace
