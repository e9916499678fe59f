// A callable that writes a mark into the recording before or after it calls the original.
//
// What a later replay needs beyond events (empty_cache, settings, memory pools, ...) passes through
// a few functions of torch. They are replaced by objects of this type, which add no Python frame to
// tracebacks and behave as a method where they are set on a class.
#pragma once

#include "hook/thread_state.h"

#include <Python.h>

namespace memtrace {

// describe: None, or a Python callable (args, kwargs) -> None | (text, value, value2, device code).
// Returns a new reference, or null with an exception set.
PyObject* make_marked_call(PyObject* original, const char* kind, PyObject* describe, bool after);

} // namespace memtrace
