// Looking into objects of the program without running its code. Under the GIL; all borrowed.
#pragma once

#include "hook/instance_attributes.h"

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
  // The object's own attribute of this name, or null.
  PyObject* of(PyObject* object) const noexcept {
    return text_ ? Attributes(object).find(text_) : nullptr;
  }
  PyObject* text() const noexcept { return text_; }

 private:
  PyObject* text_;
};

} // namespace memtrace
