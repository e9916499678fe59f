#include "hook/marked_call.h"

#include "hook/notes.h"
#include "hook/own_call.h"

#include <cstddef>
#include <cstring>
#include <string>

namespace memtrace {
namespace {

struct MarkedCall {
  PyObject_HEAD vectorcallfunc vectorcall;
  PyObject* original;
  PyObject* describe; // or null
  std::string* kind;
  bool after;
};

MarkedCall* cast(PyObject* object) {
  return reinterpret_cast<MarkedCall*>(object);
}

struct Description {
  bool is_mark = true; // false: describe said that this call is none
  std::string text;
  uint64_t value = 0;
  uint64_t value2 = 0;
  long device = 0;
};

// What the mark says of this call; false with an exception set: one of the program's came up.
bool describe_call(Description& result, PyObject* describe, PyObject* const* args, size_t count,
                   PyObject* names) {
  const OwnedObject positional(PyTuple_New(static_cast<Py_ssize_t>(count)));
  const OwnedObject keywords(PyDict_New());
  for (size_t i = 0; positional && i < count; ++i)
    PyTuple_SET_ITEM(positional.get(), static_cast<Py_ssize_t>(i), Py_NewRef(args[i]));
  for (Py_ssize_t i = 0; keywords && names && i < PyTuple_GET_SIZE(names); ++i)
    PyDict_SetItem(keywords.get(), PyTuple_GET_ITEM(names, i),
                   args[count + static_cast<size_t>(i)]);
  PyErr_Clear(); // no memory
  if (!positional || !keywords)
    return true;
  const OwnedObject told(call_own(describe, positional.get(), keywords.get()));
  if (PyErr_Occurred())
    return false;
  const char* text = nullptr;
  unsigned long long value = 0, value2 = 0;
  long device = 0;
  if (told.get() == Py_None)
    result.is_mark = false;
  else if (told && PyTuple_Check(told.get()) &&
           PyArg_ParseTuple(told.get(), "sKKl", &text, &value, &value2, &device))
    result = {true, text, value, value2, device};
  PyErr_Clear();
  return true;
}

void write(const MarkedCall* self, const Description& description) noexcept {
  const HookScope scope(g_kept_recording); // a replay and the mirror need them in a pause, too
  if (!scope)
    return;
  Note note{};
  note.value = description.value;
  note.value2 = description.value2;
  note.name = intern(scope, *self->kind);
  note.text = intern(scope, description.text);
  note.tail = {0, 0, static_cast<DeviceCode>(description.device), Action::mark};
  write_record(scope, note);
}

PyObject* call(PyObject* object, PyObject* const* args, size_t nargsf, PyObject* names) {
  MarkedCall* self = cast(object);
  if (!g_kept_recording.load(std::memory_order_relaxed))
    return PyObject_Vectorcall(self->original, args, nargsf, names);
  const auto mark = [&] {
    Description description;
    if (self->describe && !describe_call(description, self->describe, args,
                                         static_cast<size_t>(PyVectorcall_NARGS(nargsf)), names))
      return false;
    if (description.is_mark)
      write(self, description);
    return true;
  };
  if (!self->after && !mark())
    return nullptr;
  OwnedObject result(PyObject_Vectorcall(self->original, args, nargsf, names));
  if (self->after && result && !mark())
    return nullptr;
  return result.release();
}

PyObject* bind_to_instance(PyObject* object, PyObject* instance, PyObject*) {
  if (!instance || instance == Py_None)
    return Py_NewRef(object);
  return PyMethod_New(object, instance);
}

// Looks like the original to whoever asks (__name__, __doc__, __text_signature__, ...).
PyObject* get_attribute(PyObject* object, PyObject* name) {
  if (PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0)
    return Py_NewRef(cast(object)->original);
  PyObject* found = PyObject_GetAttr(cast(object)->original, name);
  if (found || !PyErr_ExceptionMatches(PyExc_AttributeError))
    return found;
  PyErr_Clear();
  return PyObject_GenericGetAttr(object, name);
}

PyObject* represent(PyObject* object) {
  return PyObject_Repr(cast(object)->original);
}

int traverse(PyObject* object, visitproc visit, void* arg) {
  Py_VISIT(cast(object)->original);
  Py_VISIT(cast(object)->describe);
  return 0;
}

int clear(PyObject* object) {
  Py_CLEAR(cast(object)->original);
  Py_CLEAR(cast(object)->describe);
  return 0;
}

void deallocate(PyObject* object) {
  PyObject_GC_UnTrack(object);
  clear(object);
  delete cast(object)->kind;
  PyObject_GC_Del(object);
}

PyTypeObject* marked_call_type() {
  static PyTypeObject type = [] {
    PyTypeObject t{};
    Py_SET_REFCNT(reinterpret_cast<PyObject*>(&t), 1);
    t.tp_name = "memtrace.MarkedCall";
    t.tp_basicsize = sizeof(MarkedCall);
    t.tp_dealloc = deallocate;
    t.tp_vectorcall_offset = offsetof(MarkedCall, vectorcall);
    t.tp_call = PyVectorcall_Call;
    t.tp_repr = represent;
    t.tp_getattro = get_attribute;
    t.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                 Py_TPFLAGS_METHOD_DESCRIPTOR;
    t.tp_traverse = traverse;
    t.tp_clear = clear;
    t.tp_descr_get = bind_to_instance;
    return t;
  }();
  static const int ready = PyType_Ready(&type);
  return ready == 0 ? &type : nullptr;
}

} // namespace

PyObject* make_marked_call(PyObject* original, const char* kind, PyObject* describe, bool after) {
  PyTypeObject* type = marked_call_type();
  if (!type)
    return nullptr;
  MarkedCall* self = PyObject_GC_New(MarkedCall, type);
  if (!self)
    return nullptr;
  self->vectorcall = call;
  self->original = Py_NewRef(original);
  self->describe = describe && describe != Py_None ? Py_NewRef(describe) : nullptr;
  self->kind = new std::string(kind);
  self->after = after;
  PyObject_GC_Track(reinterpret_cast<PyObject*>(self));
  return reinterpret_cast<PyObject*>(self);
}

} // namespace memtrace
