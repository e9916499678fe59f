// Root calls: the calls of models by the program, each a step of the trace.
//
// Every call of an nn.Module goes through the one function Module._call_impl, by a call in C. The
// pointer in that function object which says how it is called is ours while a recording is on; it
// calls the old one with the same arguments. Nothing that a Python program can look at changes, and
// an inner call costs a few instructions.
//
// The outermost call of a thread is a root call: step_begin and step_end in the thread's own log,
// with its inputs, outputs and caches. Inside a backward (activation checkpointing) it is a
// recomputation: two marks. A call that is given stand-ins alone (fake or meta tensors, proxies) is
// a tracer's and neither.
#pragma once

#include <Python.h>

namespace memtrace {

// All under the GIL. False without an exception: this torch calls its modules in another way.
bool install_root_calls(PyObject* module_class, PyObject* tensor_class);
void remove_root_calls() noexcept;

// `look` is called with a module when it is called a second time, and with None now and then: it
// writes down what weights are where by now. Its own cost decides how often. null: nobody looks.
void set_look(PyObject* look);

} // namespace memtrace
