// The spool on disk: what a running process leaves behind, readable at any moment, also after
// SIGKILL.
//
//   spool/process=KEY/
//     control.bin   one page: who writes, the clock, losses, how it ended
//     windows.bin   the chunks that threads are writing to at this moment, shared mappings
//     records.bin   chunks that were full, appended; each belongs to one log
//     packed-N.bin  what a finaliser has taken of full windows, and of records.bin in a long
//                   recording (store/packed_files.h)
//     handover.bin  one page: the full windows that a process beside the program is to take
//     text.log      frames: names, stacks, modules, threads, pools, and JSON notes
//
// Everything is little-endian. A reader needs nothing but these files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memtrace {

constexpr uint64_t kSpoolMagic = 0x4c4f4f50534d544dULL; // "MTMSPOOL"
constexpr uint32_t kSpoolVersion = 1;

// ---- control.bin ------------------------------------------------------------------------------
enum class Clock : uint32_t { monotonic_ns = 0, tsc = 1 };

// What was lost, by kind. Names as in loss_name().
enum class Loss : uint32_t {
  event_no_space,  // an allocator event: the disk was full, or as much of it taken as may be
  record_no_space, // a span, mark, sample or stage: likewise
  text_no_space,   // a name or stack could not be written; its id reads "?"
  stack_too_deep,  // a stack was cut at the walker's limit
  operators_deep,  // operator nesting beyond the thread's stack
  external_failed, // an external or preexisting allocation could not be described
  pool_unnumbered, // an event's memory pool is beyond those that get a number; it reads "other"
  count
};
constexpr uint32_t kLossCount = static_cast<uint32_t>(Loss::count);

struct ClockAnchor {
  uint64_t ticks;
  uint64_t monotonic_ns;
};

// Whose spool it is, so that others can find out whether it still runs (writer_life.h). Zero: not
// known.
struct Writer {
  uint64_t start_ticks;   // when the process started, since the machine did: /proc/PID/stat
  uint64_t pid_namespace; // in which its number means something: inode of /proc/PID/ns/pid
  char boot_id[40];
  char host[72];
};

struct Control {
  uint64_t magic;
  uint32_t version;
  uint32_t chunk_bytes;
  uint64_t pid;
  Clock clock;
  uint32_t python_hex; // PY_VERSION_HEX
  ClockAnchor start;   // clock origin: *_ns columns are monotonic_ns minus start.monotonic_ns
  uint64_t start_unix_ns;
  uint64_t lost[16]; // by Loss; updated with relaxed atomic adds
  uint32_t complete; // 1: the recorder was closed in order
  int32_t has_exit_status;
  int32_t exit_status;
  uint32_t reserved;
  ClockAnchor end; // zero unless complete
  uint64_t end_unix_ns;
  Writer writer;
};
static_assert(sizeof(Control) <= 4096);
constexpr size_t kControlBytes = 4096;

// ---- windows.bin and records.bin ----------------------------------------------------------------
// Both are arrays of chunks: a header in the place of the first record, then records up to the
// first whose tail is zero. Logs write into windows, a few chunks each, which stay mapped and are
// used again; a full window is appended to records.bin. (A fresh page of a shared file mapping
// costs 4 us, 60 ns a record. In a program that does something else in between, each append costs
// some 20 us over what it copies, 20 ns a record if it has 1,023: the kernel's code and data are
// cold, and the program's are when it returns. Hence several chunks at once.)
// Where a process beside the program takes full windows (handover.bin), that one packs them into
// packed-N.bin, and the program appends none: each of these files is one process's to write.
//   - log 1 is the recorder's own: the notes, and the events that no hook saw.
//   - (log, index) names a chunk. A chunk found in both files is the same one, caught between being
//     appended and being cleared: the window's copy is whole, the appended one may be cut short.
//   - a chunk whose magic is zero was reserved, or cleared, and holds nothing.
constexpr size_t kChunkBytes = size_t{64} * 1024;
constexpr uint32_t kChunkMagic = 0x4b4e4843; // "CHNK"
constexpr size_t kRecordBytes = 64;
constexpr size_t kRecordsPerChunk = kChunkBytes / kRecordBytes - 1; // the header takes one place
constexpr uint32_t kChunksPerWindow = 4;
constexpr uint32_t kWindowsPerLog = 4;
// Logs whose windows are so large, and may be handed over. Where more threads are alive at once,
// the windows of the others have one chunk: resident memory counts there.
constexpr uint32_t kLargeLogs = 32;

struct ChunkHeader {
  uint32_t magic;
  uint32_t log;       // number of the log, from 1
  uint64_t index;     // place of the chunk in its log, from 0
  ClockAnchor anchor; // taken when the chunk was opened
  uint64_t reserved[4];
};
static_assert(sizeof(ChunkHeader) == kRecordBytes);

// ---- handover.bin -----------------------------------------------------------------------------
// One page that the program shares with a process beside it, which takes full windows from it
// (store/window_packer.h). Not in control.bin: a writable mapping of that says that the writer
// lives.
enum class PackerState : uint32_t { none = 0, awake = 1, asleep = 2 };

struct Handover {
  PackerState packer; // a futex
  uint32_t reserved;
  // Of each window of the first kLargeLogs logs; zero: it is the log's, and idle or written to.
  // Else it is full, and was handed over: where it lies in windows.bin, and how many chunks it has.
  // The log may take it back until the packer has marked it as taken; then it is the packer's until
  // it is cleared.
  uint64_t handed[kLargeLogs * kWindowsPerLog];
};
static_assert(sizeof(Handover) <= 4096);
constexpr size_t kHandoverBytes = 4096;

constexpr uint64_t kHandedTaken = uint64_t{1} << 63;
constexpr uint64_t handed_window(uint64_t place, uint32_t chunks) {
  return place / kChunkBytes | uint64_t{chunks} << 32;
}
constexpr uint64_t handed_place(uint64_t word) {
  return (word & UINT32_MAX) * kChunkBytes;
}
constexpr uint32_t handed_chunks(uint64_t word) {
  return static_cast<uint32_t>((word & ~kHandedTaken) >> 32);
}

// ---- text.log ---------------------------------------------------------------------------------
// Ids are per kind, from 1, except that `name` ids are used for every string.
enum class TextKind : uint16_t {
  name = 1,        // id -> UTF-8 bytes
  stack = 2,       // id -> StackFrame[], innermost first
  module = 3,      // id -> ModuleText: one nn.Module instance
  module_path = 4, // id of a module -> uint32 root module id, then its path in that root (UTF-8)
  pool = 5,        // id -> two uint64: torch's MempoolId_t
  thread = 6,      // id -> ThreadText; the last one stands
  tensor = 7,      // JSON object: a named tensor (see hook/scan.py); id = 0
  process = 8,     // JSON object, merged into what is known of the process; id = 0
  source_map = 9,  // JSON object: what a file of code made at run time stands for, id = 0:
                   // generated by torch.compile (compiled.py), a notebook's cell (cells.py)
  step = 10,       // numbers of steps alone: has no text
};

struct TextFrame {
  uint32_t length; // bytes of payload that follow this header; 0 ends the log
  TextKind kind;
  uint16_t check; // kTextCheck: a torn or overwritten header is recognised
  uint32_t id;
};
static_assert(sizeof(TextFrame) == 12);
constexpr uint16_t kTextCheck = 0x6d54;

struct StackFrame {
  uint32_t function; // name id
  uint32_t file;     // name id
  uint32_t line;
  uint32_t module; // module id when this frame is nn.Module.__call__ of it, else 0
};

struct ModuleText {
  uint32_t class_name; // name id
  uint32_t reserved;
  uint64_t address; // of the instance, only to tell instances apart in a dump
};

struct ThreadText {
  uint64_t os_thread_id;
  uint64_t record_function_thread; // at::RecordFunction::currentThreadId(); 0: not known
};

} // namespace memtrace
