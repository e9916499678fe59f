// memtrace._core: what the watched process itself needs: its end, and callables seen passing by.
#include "bind/core_bindings.h"
#include "hook/own_call.h"
#include "record/end_command.h"
#include "record/process_end.h"
#include "record/spool_seal.h"
#include "record/writer_life.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cstddef>
#include <filesystem>

namespace py = pybind11;

namespace memtrace {
namespace {

// A callable that tells `before(args, kwargs)`, then `after(result, args, kwargs)` or
// `failed(exception)`, of each call of the original. It adds no Python frame to tracebacks and
// looks like the original to whoever asks.
struct ObservedCall {
  PyObject_HEAD PyObject* original;
  PyObject* before; // or null
  PyObject* after;  // or null
  PyObject* failed; // or null
};

ObservedCall* cast(PyObject* object) {
  return reinterpret_cast<ObservedCall*>(object);
}

// False with an exception set: a signal handler of the program raised it meanwhile.
bool tell(PyObject* observer, PyObject* first, PyObject* second, PyObject* third = nullptr) {
  const OwnedObject told(call_own(observer, first, second, third));
  return PyErr_Occurred() == nullptr;
}

// The exception goes on as it was, unless a signal handler of the program raises another meanwhile:
// then that one, in the context of the first, as in an `except` clause.
void tell_of_failure(PyObject* observer) {
  PyObject *type = nullptr, *exception = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &exception, &traceback);
  PyErr_NormalizeException(&type, &exception, &traceback);
  if (tell(observer, exception, nullptr))
    return PyErr_Restore(type, exception, traceback);
  Py_XDECREF(type);
  PyObject *new_type = nullptr, *new_exception = nullptr, *new_traceback = nullptr;
  PyErr_Fetch(&new_type, &new_exception, &new_traceback);
  PyErr_NormalizeException(&new_type, &new_exception, &new_traceback);
  if (traceback)
    PyException_SetTraceback(exception, traceback);
  Py_XDECREF(traceback);
  PyException_SetContext(new_exception, exception); // takes the reference
  PyErr_Restore(new_type, new_exception, new_traceback);
}

PyObject* call(PyObject* object, PyObject* args, PyObject* kwargs) {
  ObservedCall* self = cast(object);
  PyObject* keywords = kwargs ? kwargs : Py_None;
  if (self->before && !tell(self->before, args, keywords))
    return nullptr;
  OwnedObject result(PyObject_Call(self->original, args, kwargs));
  if (self->failed && !result)
    tell_of_failure(self->failed);
  if (self->after && result && !tell(self->after, result.get(), args, keywords))
    return nullptr;
  return result.release();
}

PyObject* get_attribute(PyObject* object, PyObject* name) {
  return PyObject_GetAttr(cast(object)->original, name);
}

PyObject* represent(PyObject* object) {
  return PyObject_Repr(cast(object)->original);
}

int traverse(PyObject* object, visitproc visit, void* arg) {
  const ObservedCall* self = cast(object);
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  for (PyObject* held : {type, self->original, self->before, self->after, self->failed})
    Py_VISIT(held);
  return 0;
}

int clear(PyObject* object) {
  Py_CLEAR(cast(object)->original);
  Py_CLEAR(cast(object)->before);
  Py_CLEAR(cast(object)->after);
  Py_CLEAR(cast(object)->failed);
  return 0;
}

void deallocate(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  clear(object);
  PyObject_GC_Del(object);
  Py_DECREF(type);
}

template <class Function> void* slot(Function function) {
  return reinterpret_cast<void*>(function);
}

PyTypeObject* observed_call_type() {
  static PyType_Slot slots[] = {
      {Py_tp_call, slot(call)},
      {Py_tp_getattro, slot(get_attribute)},
      {Py_tp_repr, slot(represent)},
      {Py_tp_traverse, slot(traverse)},
      {Py_tp_clear, slot(clear)},
      {Py_tp_dealloc, slot(deallocate)},
      {0, nullptr},
  };
  static PyType_Spec spec = {"memtrace._core.ObservedCall", sizeof(ObservedCall), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  static PyObject* type = PyType_FromSpec(&spec);
  return reinterpret_cast<PyTypeObject*>(type);
}

PyObject* reference_or_null(const py::object& object) {
  return object.is_none() ? nullptr : py::object(object).release().ptr();
}

py::object observed(const py::object& original, const py::object& before, const py::object& after,
                    const py::object& failed) {
  PyTypeObject* type = observed_call_type();
  ObservedCall* self = type ? PyObject_GC_New(ObservedCall, type) : nullptr;
  if (!self)
    throw py::error_already_set();
  self->original = py::object(original).release().ptr();
  self->before = reference_or_null(before);
  self->after = reference_or_null(after);
  self->failed = reference_or_null(failed);
  PyObject_GC_Track(reinterpret_cast<PyObject*>(self));
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(self));
}

void watch_end(const std::filesystem::path& end_fifo, const std::filesystem::path& done_fifo,
               const std::string& hint) {
  watch_process_end(end_fifo.string(), done_fifo.string(), hint);
}

int g_interrupt_status = 0;

// Python ends an unhandled KeyboardInterrupt by raising SIGINT again, which runs no exit handler.
void after_python() {
  if (g_interrupt_status != 0)
    announce_process_end(g_interrupt_status);
}

void wait_after_interrupt(int status) {
  if (g_interrupt_status == 0 && Py_AtExit(after_python) == 0)
    g_interrupt_status = status;
}

bool is_programs(const py::object& exception) {
  return is_programs_exception(exception.ptr());
}

void seal(const std::filesystem::path& directory, std::optional<int> exit_status, bool complete,
          const std::string& process_note) {
  std::string reason;
  if (!seal_spool(directory.string(), {exit_status, complete, process_note}, &reason))
    throw py::value_error(reason);
}

const char* life_name(const std::filesystem::path& directory) {
  switch (writer_life(directory.string())) {
  case WriterLife::running:
    return "running";
  case WriterLife::ended:
    return "ended";
  case WriterLife::unknown:
    break;
  }
  return "unknown";
}

int pid_of_writer(const std::filesystem::path& directory) {
  return writer_pid(directory.string());
}

} // namespace

void register_process(py::module_& module) {
  module.def("watch_process_end", &watch_end, py::arg("end_fifo"), py::arg("done_fifo"),
             py::arg("hint"), "At the exit of this process, tell the finaliser and wait for it.");
  module.def("run_at_process_end", &run_at_process_end, py::arg("command"), py::arg("environment"),
             py::arg("hint"), "At the exit of this process, run this and wait for it.");
  module.def("adopts_orphans", &adopts_orphans,
             "Whether processes whose parent dies become children of this one.");
  module.def("announce_process_end", &announce_process_end, py::arg("status"),
             py::call_guard<py::gil_scoped_release>(), "The same, now.");
  module.def("wait_after_interrupt", &wait_after_interrupt, py::arg("status"),
             "Also wait when the process ends by an unhandled KeyboardInterrupt.");
  module.def("observed", &observed, py::arg("original"), py::arg("before") = py::none(),
             py::arg("after") = py::none(), py::arg("failed") = py::none(),
             "The original, with observers of each call.");
  module.attr("ObservedCall") = py::handle(reinterpret_cast<PyObject*>(observed_call_type()));
  module.def("is_programs_exception", &is_programs, py::arg("exception"),
             "Whether a signal handler of the program raised it while our code ran.");
  module.def("seal_spool", &seal, py::arg("directory"), py::kw_only(),
             py::arg("exit_status") = py::none(), py::arg("complete") = false,
             py::arg("process_note") = "", "Add what is known of a process that writes no more.");
  module.def("writer_life", &life_name, py::arg("directory"),
             "Whether the writer of a spool is running, ended or unknown.");
  module.def("writer_pid", &pid_of_writer, py::arg("directory"),
             "The number of a spool's writer in this namespace; 0: none.");
}

} // namespace memtrace
