// Asks the main thread to scan root modules that stacks have shown for the first time.
//
// A scan reads names of parameters and needs the GIL, which a hook must never take. A pending call
// runs in the main thread between two bytecodes, as a signal handler does; if the main thread is
// blocked for long, the scan happens later, at the next stage mark or at the end; a model that
// other threads have made and dropped by then has no names.
#pragma once

#include <Python.h>

namespace memtrace {

// Under the GIL. `callback` is called without arguments; null: none. See own_call.h for what it
// raises.
void set_root_callback(PyObject* callback);
// From a hook, where no allocator lock is held; without the GIL. When StackTable::has_new_roots().
void request_root_scan() noexcept;
// In a forked child: a call that was pending in the parent is not pending here.
void forget_root_scan() noexcept;

} // namespace memtrace
