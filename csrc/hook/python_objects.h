// Looking into objects of the program without running its code. Under the GIL; all borrowed.
#pragma once

#include "hook/instance_attributes.h"

#include <structmember.h>

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
  // What the object has in its class's slot (__slots__) of this name, or null. To ask for it as an
  // attribute would do, but where there is none that makes an exception: memory, for which Python
  // up to 3.11 may collect garbage, and so run code of the program.
  PyObject* in_slot_of(PyObject* object) const noexcept {
    PyObject* const slot = text_ ? _PyType_Lookup(Py_TYPE(object), text_) : nullptr;
    if (!slot || Py_TYPE(slot) != &PyMemberDescr_Type)
      return nullptr;
    const PyMemberDef& member = *reinterpret_cast<PyMemberDescrObject*>(slot)->d_member;
    if (member.type != T_OBJECT_EX)
      return nullptr;
    return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + member.offset);
  }

  PyObject* text() const noexcept { return text_; }

 private:
  PyObject* text_;
};

// What a DTensor (FSDP2, tensor parallel) holds in this process, or null.
inline PyObject* local_tensor_of(PyObject* tensor) noexcept {
  static const Key name("_local_tensor");
  PyObject* const in_slot = name.in_slot_of(tensor);
  return in_slot ? in_slot : name.of(tensor);
}

} // namespace memtrace
