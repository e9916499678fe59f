// The outermost call of an nn.Module on a thread, told apart by the interpreter itself.
//
// Every call of a module goes through the one function Module._call_impl, and into that by a call
// in C. The pointer in the function object that says how it is called is ours while a recording is
// on; it calls the old one with the same arguments. (The pointer of __call__ would not do: CPython
// 3.11 runs m.__call__(x) without it.) Nothing that a Python program can look at changes, and an
// inner call costs a few instructions.
#pragma once

#include <Python.h>

#include <cstddef>

namespace memtrace {

// A call under way: what vectorcall was given. Borrowed.
struct ModuleCall {
  PyObject* function;
  PyObject* const* args; // the module, and what it is called with
  size_t nargsf;
  PyObject* names; // of keyword arguments, or null

  PyObject* module() const noexcept { return args[0]; }
  PyObject* const* positional() const noexcept { return args + 1; }
  size_t positional_count() const noexcept {
    return static_cast<size_t>(PyVectorcall_NARGS(nargsf)) - 1;
  }
  // The call itself; as if we were not there.
  PyObject* go_on() const;
};

// Does what go_on() does, and its own before and after.
using OnOutermostCall = PyObject* (*)(const ModuleCall& call);

// All under the GIL. False without an exception: this class calls its modules in another way.
bool watch_outermost_calls(PyObject* module_class, OnOutermostCall on_outermost);
void unwatch_outermost_calls() noexcept;

} // namespace memtrace
