// Calls of our own Python code from inside the program, and whose exception comes out of them.
//
// What our code raises must never become the program's error. But Python runs signal handlers
// between any two bytecodes, also ours: what the program's handler raises (KeyboardInterrupt,
// SystemExit, a timeout) is the program's, and goes on to where it would have gone, with a
// traceback that does not show us. A program's trace or profile function does not see us either.
//
// All under the GIL. Header only: both native modules call back.
#pragma once

#include <Python.h>

#include <csignal>
#include <string_view>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>

namespace memtrace {

// An owned reference, released at the end of the scope.
class OwnedObject {
 public:
  explicit OwnedObject(PyObject* object) noexcept : object_(object) {}
  OwnedObject(OwnedObject&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  ~OwnedObject() { Py_XDECREF(object_); }
  OwnedObject(const OwnedObject&) = delete;
  OwnedObject& operator=(const OwnedObject&) = delete;
  OwnedObject& operator=(OwnedObject&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  PyObject* get() const noexcept { return object_; }
  PyObject* release() noexcept { return std::exchange(object_, nullptr); }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  PyObject* object_;
};

namespace own_call {

// A new reference, or null without an exception.
inline OwnedObject attribute(PyObject* object, const char* name) noexcept {
  OwnedObject found(PyObject_GetAttrString(object, name));
  if (!found)
    PyErr_Clear();
  return found;
}

// The code that a callable of Python's runs first; null: it is not written in Python.
inline OwnedObject code_of(PyObject* callable) noexcept {
  OwnedObject at(Py_NewRef(callable));
  constexpr int kMostWrappers = 8;
  for (int i = 0; i < kMostWrappers; ++i) {
    if (OwnedObject code = attribute(at.get(), "__code__"))
      return code;
    OwnedObject inner = attribute(at.get(), "__func__"); // a method
    if (!inner)
      inner = attribute(at.get(), "func"); // functools.partial
    if (!inner)
      inner = attribute(reinterpret_cast<PyObject*>(Py_TYPE(at.get())), "__call__");
    if (!inner)
      break;
    at = std::move(inner);
  }
  return OwnedObject(nullptr);
}

inline bool is_signal_handler(PyObject* code) noexcept {
  const OwnedObject signals(PyImport_ImportModule("_signal"));
  for (int number = 1; signals && number < NSIG; ++number) {
    const OwnedObject handler(PyObject_CallMethod(signals.get(), "getsignal", "i", number));
    PyErr_Clear();
    if (handler && handler.get() != Py_None && !PyLong_Check(handler.get()) &&
        code_of(handler.get()).get() == code)
      return true;
  }
  PyErr_Clear();
  return false;
}

inline bool is_our_frame(PyObject* frame) noexcept {
  const OwnedObject globals = attribute(frame, "f_globals");
  PyObject* name = globals ? PyDict_GetItemString(globals.get(), "__name__") : nullptr;
  const char* text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : nullptr;
  PyErr_Clear();
  constexpr std::string_view kPackage = "memtrace";
  if (!text)
    return false;
  const std::string_view module(text);
  return module == kPackage || (module.starts_with(kPackage) && module[kPackage.size()] == '.');
}

// Of the process, as Python's own is.
inline bool is_main_thread() noexcept {
  return syscall(SYS_gettid) == getpid();
}

inline PyObject* frame_of(PyObject* traceback) noexcept {
  return reinterpret_cast<PyObject*>(reinterpret_cast<PyTracebackObject*>(traceback)->tb_frame);
}
inline PyObject* next_of(PyObject* traceback) noexcept {
  return reinterpret_cast<PyObject*>(reinterpret_cast<PyTracebackObject*>(traceback)->tb_next);
}

} // namespace own_call

// Was it raised by a signal handler of the program, while our code ran? Ours raises nothing but
// subclasses of Exception; of those the traceback shows whether a handler was under way.
inline bool is_programs_exception(PyObject* exception) noexcept {
  if (PyObject_IsInstance(exception, PyExc_Exception) != 1) {
    PyErr_Clear();
    return true;
  }
  OwnedObject traceback(PyException_GetTraceback(exception));
  for (PyObject* at = traceback.get(); at; at = own_call::next_of(at)) {
    const OwnedObject code = own_call::attribute(own_call::frame_of(at), "f_code");
    if (code && own_call::is_signal_handler(code.get()))
      return true;
  }
  return false;
}

// With an exception set by our code: true leaves it set, as the program's; false drops it.
inline bool keep_programs_exception() noexcept {
  PyObject *type = nullptr, *exception = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &exception, &traceback);
  PyErr_NormalizeException(&type, &exception, &traceback);
  if (exception && traceback)
    PyException_SetTraceback(exception, traceback);
  if (!exception || !is_programs_exception(exception)) {
    Py_XDECREF(type);
    Py_XDECREF(exception);
    Py_XDECREF(traceback);
    return false;
  }
  PyObject* theirs = traceback;
  while (theirs && own_call::is_our_frame(own_call::frame_of(theirs)))
    theirs = own_call::next_of(theirs);
  Py_XINCREF(theirs);
  PyException_SetTraceback(exception, theirs ? theirs : Py_None);
  PyErr_Restore(type, exception, theirs);
  Py_XDECREF(traceback);
  return true;
}

// While it lives, sys.settrace's and sys.setprofile's functions of this thread are not called.
class Untraced {
 public:
  Untraced() noexcept : thread_(PyThreadState_Get()) {
#if PY_VERSION_HEX >= 0x030B0000
    PyThreadState_EnterTracing(thread_);
#else
    ++thread_->tracing;
    thread_->cframe->use_tracing = 0;
#endif
  }
  ~Untraced() {
#if PY_VERSION_HEX >= 0x030B0000
    PyThreadState_LeaveTracing(thread_);
#else
    --thread_->tracing;
    thread_->cframe->use_tracing =
        thread_->tracing == 0 && (thread_->c_tracefunc || thread_->c_profilefunc) ? 255 : 0;
#endif
  }
  Untraced(const Untraced&) = delete;
  Untraced& operator=(const Untraced&) = delete;

 private:
  PyThreadState* thread_;
};

// Calls our Python code with up to three arguments. The result; or null with no exception set: our
// code failed, which nobody is told; or null with one set: it is the program's, to be passed on.
inline PyObject* call_own(PyObject* callable, PyObject* first = nullptr, PyObject* second = nullptr,
                          PyObject* third = nullptr) noexcept {
  PyObject* result = nullptr;
  {
    const Untraced untraced;
    result = PyObject_CallFunctionObjArgs(callable, first, second, third, nullptr);
  }
  if (!result)
    keep_programs_exception();
  return result;
}

// Where an exception cannot be passed on (an observer of an operator has nobody to give it to): one
// that is set, the program's, surfaces at its next bytecode. A signal handler runs in the main
// thread alone, as pending calls do; another thread got it from PyThreadState_SetAsyncExc, which
// gives it back to that thread.
inline void raise_later() noexcept {
  PyObject *type = nullptr, *exception = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &exception, &traceback);
  PyErr_NormalizeException(&type, &exception, &traceback);
  if (exception && traceback)
    PyException_SetTraceback(exception, traceback);
  Py_XDECREF(traceback);
  const OwnedObject of_type(type);
  if (!own_call::is_main_thread()) {
    if (type)
      PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), type);
    Py_XDECREF(exception);
    return;
  }
  constexpr auto raise = [](void* pending) {
    auto* const raised = static_cast<PyObject*>(pending);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(raised)), raised);
    Py_DECREF(raised);
    return -1;
  };
  if (exception && Py_AddPendingCall(raise, exception) != 0)
    Py_DECREF(exception); // the queue is full
}

// After a look at an object that may have run code of its class: whatever that raised is dropped,
// but for what a signal handler of the program did.
inline void drop_own_exception() noexcept {
  if (PyErr_Occurred() && keep_programs_exception())
    raise_later();
}

} // namespace memtrace
