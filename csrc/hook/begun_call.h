// A call as it begins, whoever tells of it.
#pragma once

#include <ATen/record_function.h>

#include <cstdint>

namespace memtrace {

// What is known of a call when it begins.
struct BegunCall {
  uintptr_t function;                        // address of its at::RecordFunction
  const at::RecordFunction* record_function; // the same; null: told by start_operator()
  const char* name;
  int64_t sequence_number;
  uint32_t forward_thread;
  at::RecordScope scope;
};

} // namespace memtrace
