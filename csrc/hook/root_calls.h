// Root calls: the calls of models by the program, each a step of the trace.
//
// The outermost call of a module on a thread is a root call: step_begin and step_end in the
// thread's own log, with its inputs, outputs and caches. Inside a backward (activation
// checkpointing) it is a recomputation: two marks. A call that is given stand-ins alone (fake or
// meta tensors, proxies) is a tracer's, and neither.
#pragma once

#include <Python.h>

namespace memtrace {

// All under the GIL. False without an exception: this torch calls its modules in another way.
bool install_root_calls(PyObject* module_class, PyObject* tensor_class);
void remove_root_calls() noexcept;
bool resume_root_calls(); // installed before, and removed since

// `look` is called with a module before it is called for the second time, and with None now and
// then: it writes down which weights are where by now. Its own cost decides how often. null: nobody
// looks.
void set_look(PyObject* look);

} // namespace memtrace
