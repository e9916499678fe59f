// Looking into objects of the program without running its code. Under the GIL; all borrowed.
#pragma once

#include <Python.h>

namespace memtrace {

// A key that is looked up again and again.
class Key {
 public:
  explicit Key(const char* text) : text_(PyUnicode_InternFromString(text)) {}
  // Null without an exception. Texts compare without the program's code.
  PyObject* in(PyObject* dict) const noexcept {
    if (!text_ || !dict || !PyDict_Check(dict))
      return nullptr;
    PyObject* found = PyDict_GetItemWithError(dict, text_);
    if (!found)
      PyErr_Clear();
    return found;
  }
  PyObject* text() const noexcept { return text_; }

 private:
  PyObject* text_;
};

// An object's instance dictionary, or null.
inline PyObject* dict_of(PyObject* object) noexcept {
  PyObject** dict = _PyObject_GetDictPtr(object);
  return dict && *dict && PyDict_Check(*dict) ? *dict : nullptr;
}

} // namespace memtrace
