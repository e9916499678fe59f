// The beginning and the end of an operator of torch's dispatcher, told by another than
// RecordFunction's callbacks (dispatcher_shortcut.h).
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

// `function` is the address of the at::RecordFunction, `name` that of the operator's schema.
void start_operator(uintptr_t function, const char* name, int64_t sequence_number) noexcept;

// False: no call that start_operator() was told of; nothing has been done.
bool end_operator(uintptr_t function) noexcept;

} // namespace memtrace
