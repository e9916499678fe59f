// The GIL, taken from a thread that may or may not have it, or not taken when Python is ending.
#pragma once

#include <Python.h>

namespace memtrace {

// False: there is no Python any more, or it is being taken down. An exception that is set stays
// set, and is not seen inside.
class GilScope {
 public:
  GilScope() noexcept : held_(!is_ending()) {
    if (!held_)
      return;
    gil_ = PyGILState_Ensure();
    PyErr_Fetch(&type_, &value_, &traceback_);
  }
  ~GilScope() {
    if (!held_)
      return;
    PyErr_Restore(type_, value_, traceback_);
    PyGILState_Release(gil_);
  }
  GilScope(const GilScope&) = delete;
  GilScope& operator=(const GilScope&) = delete;

  explicit operator bool() const noexcept { return held_; }

 private:
  static bool is_ending() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsInitialized() == 0 || Py_IsFinalizing() != 0;
#else
    return Py_IsInitialized() == 0 || _Py_IsFinalizing() != 0;
#endif
  }

  bool held_;
  PyGILState_STATE gil_{};
  PyObject *type_ = nullptr, *value_ = nullptr, *traceback_ = nullptr;
};

} // namespace memtrace
