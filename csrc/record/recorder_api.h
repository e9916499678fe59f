// How the recorder of `memtrace._core` is reached from `memtrace._hook`: a table of C functions.
//
// The two modules may be built at different times, against different C++ ABIs (a hook follows its
// torch); nothing but this table, the records and ThreadLog may cross between them.
#pragma once

#include "record/spool.h"
#include "record/thread_log.h"

namespace memtrace {

constexpr uint32_t kRecorderApiVersion = 3;
constexpr const char* kRecorderCapsule = "memtrace.recorder.3";

struct RecorderApi {
  uint32_t version;
  void* recorder;
  ThreadLog* (*acquire_log)(void* recorder) noexcept;
  void (*release_log)(void* recorder, ThreadLog* log) noexcept;
  void (*flush)(void* recorder, ThreadLog* log) noexcept;
  uint32_t (*intern)(void* recorder, const char* text, size_t size) noexcept;
  bool (*text)(void* recorder, TextKind kind, uint32_t id, const void* payload,
               size_t size) noexcept;
  uint32_t (*next_id)(void* recorder, TextKind kind) noexcept;
  void (*lose)(void* recorder, Loss kind, uint64_t count) noexcept;
};

} // namespace memtrace
