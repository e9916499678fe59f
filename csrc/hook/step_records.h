// What a root call writes into the log of its thread: the step and its tensors.
//
// Under the GIL. `recording` is the one that was on when the call began: when another one is on by
// now, or none, nothing is written.
#pragma once

#include "hook/call_tensors.h"
#include "hook/thread_state.h"

#include <cstdint>

namespace memtrace {

void write_step_begin(const Recording* recording, uint64_t step, const char* root_class,
                      const CallTensors& inputs);
// `error` is the class of the exception that the call raised, or null. `caches`: those that it was
// given, as they are now.
void write_step_end(const Recording* recording, uint64_t step, PyObject* error,
                    const CallTensors& outputs, const CallTensors& caches);
void lose_step_record(const Recording* recording) noexcept;

} // namespace memtrace
