#include "hook/python_frame.h"

#include "hook/code_text.h"
#include "hook/object_identity.h"
#include "hook/own_call.h"
#include "hook/python_identity.h"
#include "hook/python_stack.h"
#include "hook/walk_gate.h"

#include <pthread.h>

namespace memtrace {
namespace {

bool g_exiting = false;
bool g_prepared = false;

// An installer reports by its result, never by an exception.
bool fail(std::string& reason, const char* why) {
  PyErr_Clear();
  reason = why;
  return false;
}

// Does this interpreter lay out its frames as python_frame.h says? Its own functions decide.
bool walk_agrees() {
  PyThreadState* thread = PyThreadState_Get();
  if (thread != PyGILState_GetThisThreadState())
    return false; // a sub-interpreter, whose threads the walk could not find
  const RawFrame* raw = innermost_frame(thread);
  for (PyFrameObject* frame = PyThreadState_GetFrame(thread); frame;) {
    const OwnedObject held(reinterpret_cast<PyObject*>(frame));
    while (raw && !is_visible(raw))
      raw = outer_frame(raw);
    const OwnedObject code(reinterpret_cast<PyObject*>(PyFrame_GetCode(frame)));
    if (!raw || frame_code(raw) != code.get())
      return false;
    const int offset = frame_offset(raw);
#if PY_VERSION_HEX >= 0x030B0000
    if (offset != PyFrame_GetLasti(frame))
      return false;
#endif
    const int line = PyCode_Addr2Line(reinterpret_cast<PyCodeObject*>(code.get()), offset);
    if (line > 0 && line != line_at(code.get(), offset))
      return false;
    raw = outer_frame(raw);
    frame = PyFrame_GetBack(frame);
  }
  while (raw && !is_visible(raw))
    raw = outer_frame(raw);
  return raw == nullptr;
}

PyObject* at_exit(PyObject*, PyObject*) {
  g_exiting = true;
  if (g_walk_gate.load() == WalkGate::open)
    close_walks(WalkGate::closer_only);
  Py_RETURN_NONE;
}

bool prepare(std::string& reason) {
  static PyMethodDef method{"memtrace_stop_walks", at_exit, METH_NOARGS, nullptr};
  const OwnedObject atexit(PyImport_ImportModule("atexit"));
  const OwnedObject callback(PyCFunction_New(&method, nullptr));
  if (!atexit || !callback)
    return fail(reason, "atexit is not there");
  const OwnedObject done(PyObject_CallMethod(atexit.get(), "register", "O", callback.get()));
  if (!done)
    return fail(reason, "atexit.register failed");
  // After those of object_identity.cpp, so that this lock is taken first.
  pthread_atfork([] { g_first_sight.lock(); }, [] { g_first_sight.unlock(); },
                 [] { g_first_sight.unlock(); });
  return g_prepared = true;
}

// The code of a method of the class; a new reference.
PyObject* code_of(PyObject* module_class, const char* method) {
  const OwnedObject function(PyObject_GetAttrString(module_class, method));
  return function ? PyObject_GetAttrString(function.get(), "__code__") : nullptr;
}

// Is the first local variable of the code the plain argument `self`?
bool has_plain_self(PyObject* code) {
  const OwnedObject names(PyObject_GetAttrString(code, "co_varnames"));
  const OwnedObject cells(PyObject_GetAttrString(code, "co_cellvars"));
  if (!names || !cells || !PyTuple_Check(names.get()) || PyTuple_GET_SIZE(names.get()) == 0 ||
      reinterpret_cast<PyCodeObject*>(code)->co_argcount < 1)
    return false;
  PyObject* first = PyTuple_GET_ITEM(names.get(), 0);
  return PyUnicode_CompareWithASCIIString(first, "self") == 0 &&
         PySequence_Contains(cells.get(), first) == 0;
}

} // namespace

bool install_code_identity(std::string& reason) {
  if (!kFramesKnown)
    return fail(reason, "Python without the GIL is not supported");
  if (g_exiting)
    return fail(reason, "the program is ending");
  if (!walk_agrees())
    return fail(reason, "this Python lays out its frames in another way than " PY_VERSION);
  hook_code_deaths();
  if (!g_prepared && !prepare(reason))
    return false;
  return open_walks() || fail(reason, "no thread keys are left");
}

bool install_module_identity(PyObject* module_class, std::string& reason) {
  if (!PyType_Check(module_class) ||
      !(reinterpret_cast<PyTypeObject*>(module_class)->tp_flags & Py_TPFLAGS_HEAPTYPE))
    return fail(reason, "the module class is not a Python class");
  OwnedObject entry(code_of(module_class, "_wrapped_call_impl"));
  OwnedObject call(code_of(module_class, "_call_impl"));
  if (!entry || !call || !PyCode_Check(entry.get()) || !PyCode_Check(call.get()))
    return fail(reason, "torch.nn.Module has no _wrapped_call_impl and _call_impl");
  if (!has_plain_self(entry.get()))
    return fail(reason, "torch.nn.Module._wrapped_call_impl has another signature than expected");
  hook_instance_deaths(reinterpret_cast<PyTypeObject*>(module_class));
  if (g_module_calls.entry.load() == entry.get())
    return true;
  // _call_impl's inner functions hold the user's frames too when a module has hooks.
  size_t place = 0;
  PyObject* constants = reinterpret_cast<PyCodeObject*>(call.get())->co_consts;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constants); ++i)
    if (PyObject* inner = PyTuple_GET_ITEM(constants, i);
        PyCode_Check(inner) && place + 1 < g_module_calls.plumbing.size())
      g_module_calls.plumbing[place++].store(Py_NewRef(inner));
  g_module_calls.plumbing[place].store(call.release());
  g_module_calls.entry.store(entry.release(), std::memory_order_release);
  return true;
}

void uninstall_identity() {
  if (!g_exiting)
    close_walks(WalkGate::shut);
  g_module_calls.entry.store(&g_module_calls); // until deaths of modules are seen again
  unhook_deaths();
}

} // namespace memtrace
