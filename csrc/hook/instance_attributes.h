// The attributes of an object, as they lie in it: what knows how CPython lays them out.
//
// CPython 3.11 and 3.12 keep the attributes of most instances without a dictionary, until somebody
// asks for that. We do not: to make it allocates (which may collect garbage in 3.11, and so run
// code of the program), and makes that instance's attributes slower from then on. From 3.13 on it
// does neither.
//
// Under the GIL; all borrowed.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>

namespace memtrace {

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030D0000
// Of an instance without a dictionary: pycore_dict.h, "Layout of dict values".
class InstanceValues {
 public:
  explicit InstanceValues(PyObject* object) noexcept {
    PyTypeObject* const type = Py_TYPE(object);
    if (!(type->tp_flags & Py_TPFLAGS_MANAGED_DICT))
      return;
#if PY_VERSION_HEX >= 0x030C0000
    const uintptr_t either = reinterpret_cast<uintptr_t*>(object)[-3]; // odd: one less than values
    values_ = either & 1 ? reinterpret_cast<PyObject**>(either + 1) : nullptr;
#else
    values_ = reinterpret_cast<PyObject***>(object)[-4];
#endif
    if (!values_)
      return;
    const auto* keys =
        reinterpret_cast<Keys*>(reinterpret_cast<PyHeapTypeObject*>(type)->ht_cached_keys);
    entries_ =
        reinterpret_cast<const Entry*>(keys->indices + (size_t{1} << keys->log2_index_bytes));
  }
  explicit operator bool() const noexcept { return values_ != nullptr; }

  // In the order in which they were set.
  size_t count() const noexcept { return before_values()[-2]; }
  PyObject* key(size_t nth) const noexcept { return entries_[place(nth)].key; }
  PyObject* value(size_t nth) const noexcept { return values_[place(nth)]; }

 private:
  struct Keys { // PyDictKeysObject
    Py_ssize_t references;
    uint8_t log2_size, log2_index_bytes, kind;
    uint32_t version;
    Py_ssize_t usable, entries;
    char indices[1]; // and behind them the entries
  };
  struct Entry { // PyDictUnicodeEntry
    PyObject *key, *value;
  };

  const uint8_t* before_values() const noexcept { return reinterpret_cast<uint8_t*>(values_); }
  size_t place(size_t nth) const noexcept { return *(before_values() - 3 - nth); }

  PyObject** values_ = nullptr;
  const Entry* entries_ = nullptr;
};
#else
struct InstanceValues {
  explicit InstanceValues(PyObject*) noexcept {}
  explicit operator bool() const noexcept { return false; }
  static size_t count() noexcept { return 0; }
  static PyObject* key(size_t) noexcept { return nullptr; }
  static PyObject* value(size_t) noexcept { return nullptr; }
};
#endif

// Goes through what is in an object's own dictionary, or would be, while nothing changes there.
class Attributes {
 public:
  explicit Attributes(PyObject* object) noexcept : values_(object) {
    if (values_)
      return;
    PyObject** const dict = _PyObject_GetDictPtr(object);
    if (dict && *dict && PyDict_Check(*dict))
      dict_ = *dict;
  }

  // False: there is no further one.
  bool next(PyObject*& key, PyObject*& value) noexcept {
    if (!values_)
      return dict_ != nullptr && PyDict_Next(dict_, &at_, &key, &value) != 0;
    if (static_cast<size_t>(at_) == values_.count())
      return false;
    key = values_.key(static_cast<size_t>(at_));
    value = values_.value(static_cast<size_t>(at_++));
    return true;
  }

  // The attribute of that name (a text), or null. Without an exception.
  PyObject* find(PyObject* name) const noexcept {
    if (!values_) {
      PyObject* const found = dict_ ? PyDict_GetItemWithError(dict_, name) : nullptr;
      if (!found)
        PyErr_Clear();
      return found;
    }
    const bool is_interned = PyUnicode_CHECK_INTERNED(name) != 0; // as nearly all keys are, too
    for (size_t i = 0; i < values_.count(); ++i) {
      PyObject* const key = values_.key(i);
      if (key == name)
        return values_.value(i);
      // Two that are interned are the same or different.
      if ((!is_interned || PyUnicode_CHECK_INTERNED(key) == 0) && PyUnicode_Compare(key, name) == 0)
        return values_.value(i);
    }
    return nullptr;
  }

 private:
  const InstanceValues values_;
  PyObject* dict_ = nullptr;
  Py_ssize_t at_ = 0;
};

} // namespace memtrace
