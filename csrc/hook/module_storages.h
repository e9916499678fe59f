// Whether a model still holds the storages that it held.
#pragma once

#include <Python.h>

#include "hook/call_tensors.h"

#include <cstdint>

namespace memtrace {

// A number that is another one once parameters or buffers of the module, or of those in it, lie in
// other storages. Under the GIL; runs no code of the program. Bounded: a module may contain itself.
uint64_t storages_of(PyObject* module, const CallClasses& classes) noexcept;

} // namespace memtrace
