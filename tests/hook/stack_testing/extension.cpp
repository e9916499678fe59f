// `memtrace_stack_testing`: the stack table with names kept in memory, for the tests. Not shipped.
#include <Python.h>

#include "hook/instance_attributes.h"
#include "hook/outermost_call.h"
#include "hook/python_context.h"
#include "hook/python_stack.h"
#include "hook/walk_gate.h"

#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using namespace memtrace;

namespace {

class MemorySink final : public TextSink {
 public:
  uint32_t intern(std::string_view utf8) noexcept override {
    const std::lock_guard lock(mutex);
    const auto [place, added] = ids.try_emplace(std::string(utf8), 0);
    if (added) {
      place->second = static_cast<uint32_t>(names.size());
      names.push_back(place->first);
    }
    return place->second;
  }
  uint32_t next_id(TextKind kind) noexcept override {
    return kind == TextKind::stack ? ++last_stack : ++last_module;
  }
  void text(TextKind kind, uint32_t id, const void* payload, size_t bytes) noexcept override {
    const std::lock_guard lock(mutex);
    const auto* start = static_cast<const char*>(payload);
    texts[{kind, id}] = std::string(start, start + bytes);
  }
  void lose(Loss) noexcept override { ++lost; }

  std::mutex mutex;
  std::map<std::string, uint32_t> ids;
  std::vector<std::string> names{""};
  std::map<std::pair<TextKind, uint32_t>, std::string> texts;
  uint32_t last_stack = 0, last_module = 0;
  std::atomic<uint64_t> lost{0};
};

// As in the product, both live for ever.
MemorySink* g_sink = nullptr;
StackTable* g_table = nullptr;
std::atomic<uint32_t> g_last_at_dealloc{0};
std::atomic<bool> g_hammer{false};
std::atomic<uint64_t> g_hammered{0};

PyObject* start(PyObject*, PyObject* arguments) {
  std::vector<std::string> prefixes;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arguments); ++i)
    prefixes.emplace_back(PyUnicode_AsUTF8(PyTuple_GET_ITEM(arguments, i)));
  std::string reason;
  if (!install_code_identity(reason))
    return PyErr_Format(PyExc_RuntimeError, "%s", reason.c_str());
  g_sink = new MemorySink;
  g_table = StackTable::create(*g_sink, prefixes);
  Py_RETURN_NONE;
}

PyObject* install_modules(PyObject*, PyObject* module_class) {
  std::string reason;
  if (!install_module_identity(module_class, reason))
    return PyErr_Format(PyExc_RuntimeError, "%s", reason.c_str());
  Py_RETURN_NONE;
}

PyObject* uninstall(PyObject*, PyObject*) {
  uninstall_identity();
  Py_RETURN_NONE;
}

PyObject* take(PyObject*, PyObject*) {
  return PyLong_FromUnsignedLong(g_table->take());
}

// As torch does it: the GIL is released around the allocation.
PyObject* take_without_gil(PyObject*, PyObject*) {
  uint32_t id;
  Py_BEGIN_ALLOW_THREADS;
  id = g_table->take();
  Py_END_ALLOW_THREADS;
  return PyLong_FromUnsignedLong(id);
}

// Takes again and again without the GIL for some milliseconds; all ids have to be the same.
PyObject* take_for(PyObject*, PyObject* milliseconds) {
  const long wait_ms = PyLong_AsLong(milliseconds);
  uint32_t first = 0;
  bool same = true;
  Py_BEGIN_ALLOW_THREADS;
  first = g_table->take();
  timespec now{}, begun{};
  clock_gettime(CLOCK_MONOTONIC, &begun);
  do {
    for (int i = 0; i < 100; ++i)
      same = g_table->take() == first && same;
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while ((now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1'000'000 <
           wait_ms);
  Py_END_ALLOW_THREADS;
  return Py_BuildValue("(IO)", first, same ? Py_True : Py_False);
}

// For a daemon thread that is in C while the interpreter ends. Never returns.
PyObject* take_for_ever(PyObject*, PyObject*) {
  Py_BEGIN_ALLOW_THREADS;
  for (;;)
    g_table->take();
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

// In a thread that Python has never heard of, as autograd's are.
PyObject* take_in_foreign_thread(PyObject*, PyObject*) {
  uint32_t id = 0;
  Py_BEGIN_ALLOW_THREADS;
  std::thread([&] { id = g_table->take(); }).join();
  Py_END_ALLOW_THREADS;
  return PyLong_FromUnsignedLong(id);
}

// In a foreign thread that calls back into Python: before, inside (through the callable) and after.
PyObject* call_in_foreign_thread(PyObject*, PyObject* callable) {
  uint32_t before = 0, after = 0;
  PyObject* inside = nullptr;
  Py_BEGIN_ALLOW_THREADS;
  std::thread([&] {
    before = g_table->take();
    const PyGILState_STATE state = PyGILState_Ensure();
    inside = PyObject_CallNoArgs(callable);
    if (!inside)
      PyErr_Print();
    PyGILState_Release(state);
    after = g_table->take();
  }).join();
  Py_END_ALLOW_THREADS;
  if (!inside)
    Py_RETURN_NONE;
  return Py_BuildValue("(INI)", before, inside, after);
}

PyObject* start_foreign_hammer(PyObject*, PyObject*) {
  g_hammer = true;
  std::thread([] {
    while (g_hammer.load()) {
      g_hammered += g_table->take() == 0;
    }
  }).detach();
  Py_RETURN_NONE;
}

PyObject* stop_foreign_hammer(PyObject*, PyObject*) {
  g_hammer = false;
  return PyLong_FromUnsignedLongLong(g_hammered.load());
}

PyObject* bench(PyObject*, PyObject* count) {
  const long takes = PyLong_AsLong(count);
  timespec begun{}, done{};
  uint32_t sum = 0;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begun);
  for (long i = 0; i < takes; ++i)
    sum ^= g_table->take();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &done);
  const double ns = static_cast<double>(done.tv_sec - begun.tv_sec) * 1e9 +
                    static_cast<double>(done.tv_nsec - begun.tv_nsec);
  return Py_BuildValue("(dI)", ns / static_cast<double>(takes), sum);
}

PyObject* name(uint32_t id) {
  const std::string& text = g_sink->names.at(id);
  return PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr);
}

PyObject* frames(PyObject*, PyObject* stack) {
  const std::lock_guard lock(g_sink->mutex);
  const auto found = g_sink->texts.find({TextKind::stack, PyLong_AsUnsignedLong(stack)});
  if (found == g_sink->texts.end())
    return PyErr_Format(PyExc_KeyError, "no such stack");
  PyObject* list = PyList_New(0);
  for (size_t at = 0; at < found->second.size(); at += sizeof(StackFrame)) {
    StackFrame frame;
    memcpy(&frame, found->second.data() + at, sizeof frame);
    PyObject* row =
        Py_BuildValue("(NNII)", name(frame.function), name(frame.file), frame.line, frame.module);
    if (!row || PyList_Append(list, row) < 0)
      return nullptr;
    Py_DECREF(row);
  }
  return list;
}

PyObject* module_text(PyObject*, PyObject* id) {
  const std::lock_guard lock(g_sink->mutex);
  const auto found = g_sink->texts.find({TextKind::module, PyLong_AsUnsignedLong(id)});
  if (found == g_sink->texts.end())
    return PyErr_Format(PyExc_KeyError, "no such module");
  ModuleText module;
  memcpy(&module, found->second.data(), sizeof module);
  return Py_BuildValue("(NK)", name(module.class_name), module.address);
}

PyObject* counts(PyObject*, PyObject*) {
  return Py_BuildValue("{sIsIsK}", "stacks", g_sink->last_stack, "modules", g_sink->last_module,
                       "lost", g_sink->lost.load());
}

PyObject* take_new_roots(PyObject*, PyObject*) {
  PyObject* list = PyList_New(0);
  for (const uint32_t id : g_table->take_new_roots()) {
    PyObject* number = PyLong_FromUnsignedLong(id);
    PyList_Append(list, number);
    Py_DECREF(number);
  }
  return list;
}

PyObject* module_object(PyObject*, PyObject* id) {
  PyObject* module = g_table->module_object(static_cast<uint32_t>(PyLong_AsUnsignedLong(id)));
  if (module)
    return module;
  Py_RETURN_NONE;
}

PyObject* module_id(PyObject*, PyObject* module) {
  return PyLong_FromUnsignedLong(g_table->module_id(module));
}

// The module of the innermost frame that has one; 0: none.
PyObject* innermost_module(PyObject*, PyObject* stack) {
  const std::lock_guard lock(g_sink->mutex);
  const std::string& text = g_sink->texts[{TextKind::stack, PyLong_AsUnsignedLong(stack)}];
  StackFrame frame{};
  for (size_t at = 0; at < text.size() && frame.module == 0; at += sizeof frame)
    memcpy(&frame, text.data() + at, sizeof frame);
  return PyLong_FromUnsignedLong(frame.module);
}

// exit() runs it after the interpreter is gone, where C++ programs free their last tensors.
PyObject* take_at_c_exit(PyObject*, PyObject*) {
  std::atexit([] {
    printf("c exit: %u\n", g_table->take());
    fflush(stdout);
  });
  Py_RETURN_NONE;
}

// An object that takes a stack when it dies, as a tensor does that is freed.
void dealloc_and_take(PyObject* object) {
  g_last_at_dealloc = g_table->take();
  PyTypeObject* type = Py_TYPE(object);
  type->tp_free(object);
  Py_DECREF(type);
}

PyObject* last_at_dealloc(PyObject*, PyObject*) {
  return PyLong_FromUnsignedLong(g_last_at_dealloc.exchange(0));
}

// What watch_calls() appends to: ("begin", module) and ("end", module, result or None).
PyObject* g_calls = nullptr;

PyObject* log_call(const ModuleCall& call) {
  PyObject* begun = Py_BuildValue("(sO)", "begin", call.module());
  PyList_Append(g_calls, begun);
  Py_DECREF(begun);
  PyObject* result = call.go_on();
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* ended = Py_BuildValue("(sOO)", "end", call.module(), result ? result : Py_None);
  PyList_Append(g_calls, ended);
  Py_DECREF(ended);
  PyErr_Restore(type, value, traceback);
  return result;
}

PyObject* watch_calls(PyObject*, PyObject* arguments) {
  PyObject *module_class = nullptr, *calls = nullptr;
  if (!PyArg_ParseTuple(arguments, "OO!", &module_class, &PyList_Type, &calls))
    return nullptr;
  Py_XDECREF(g_calls);
  g_calls = Py_NewRef(calls);
  return PyBool_FromLong(watch_outermost_calls(module_class, log_call));
}

// How many calls of modules this thread is in, as far as they are kept.
PyObject* known_calls(PyObject*, PyObject*) {
  const FrozenFrames* const frozen = t_walk_mark ? &t_walk_mark->frozen : nullptr;
  return PyLong_FromLong(frozen ? frozen->innermost - frozen->calls : 0);
}

PyObject* unwatch_calls(PyObject*, PyObject*) {
  unwatch_outermost_calls();
  Py_RETURN_NONE;
}

PyObject* attributes(PyObject*, PyObject* object) {
  PyObject* const all = PyList_New(0);
  Attributes attributes(object);
  for (PyObject *key = nullptr, *value = nullptr; all && attributes.next(key, value);) {
    PyObject* const pair = PyTuple_Pack(2, key, value);
    PyList_Append(all, pair);
    Py_XDECREF(pair);
  }
  return all;
}

PyObject* attribute(PyObject*, PyObject* arguments) {
  PyObject *object = nullptr, *name = nullptr;
  if (!PyArg_ParseTuple(arguments, "OU", &object, &name))
    return nullptr;
  PyObject* const found = Attributes(object).find(name);
  return Py_NewRef(found ? found : Py_None);
}

PyType_Slot g_tensor_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(dealloc_and_take)},
                                {0, nullptr}};
PyType_Spec g_tensor_spec{"memtrace_stack_testing.Tensor", sizeof(PyObject), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, g_tensor_slots};

// None: the variable has no value here.
PyObject* context_value(PyObject*, PyObject* variable) {
  PyObject* value = value_in_context(PyThreadState_Get(), ContextVariable::of(variable));
  return Py_NewRef(value ? value : Py_None);
}

PyMethodDef g_methods[] = {{"start", start, METH_VARARGS, nullptr},
                           {"install_modules", install_modules, METH_O, nullptr},
                           {"uninstall", uninstall, METH_NOARGS, nullptr},
                           {"take", take, METH_NOARGS, nullptr},
                           {"take_without_gil", take_without_gil, METH_NOARGS, nullptr},
                           {"take_for", take_for, METH_O, nullptr},
                           {"take_for_ever", take_for_ever, METH_NOARGS, nullptr},
                           {"take_in_foreign_thread", take_in_foreign_thread, METH_NOARGS, nullptr},
                           {"call_in_foreign_thread", call_in_foreign_thread, METH_O, nullptr},
                           {"start_foreign_hammer", start_foreign_hammer, METH_NOARGS, nullptr},
                           {"stop_foreign_hammer", stop_foreign_hammer, METH_NOARGS, nullptr},
                           {"bench", bench, METH_O, nullptr},
                           {"frames", frames, METH_O, nullptr},
                           {"module_text", module_text, METH_O, nullptr},
                           {"counts", counts, METH_NOARGS, nullptr},
                           {"take_new_roots", take_new_roots, METH_NOARGS, nullptr},
                           {"module_object", module_object, METH_O, nullptr},
                           {"module_id", module_id, METH_O, nullptr},
                           {"innermost_module", innermost_module, METH_O, nullptr},
                           {"watch_calls", watch_calls, METH_VARARGS, nullptr},
                           {"unwatch_calls", unwatch_calls, METH_NOARGS, nullptr},
                           {"known_calls", known_calls, METH_NOARGS, nullptr},
                           {"attributes", attributes, METH_O, nullptr},
                           {"attribute", attribute, METH_VARARGS, nullptr},
                           {"take_at_c_exit", take_at_c_exit, METH_NOARGS, nullptr},
                           {"context_value", context_value, METH_O, nullptr},
                           {"last_at_dealloc", last_at_dealloc, METH_NOARGS, nullptr},
                           {nullptr, nullptr, 0, nullptr}};
PyModuleDef g_module{PyModuleDef_HEAD_INIT,
                     "memtrace_stack_testing",
                     nullptr,
                     -1,
                     g_methods,
                     nullptr,
                     nullptr,
                     nullptr,
                     nullptr};

} // namespace

PyMODINIT_FUNC PyInit_memtrace_stack_testing() {
  PyObject* module = PyModule_Create(&g_module);
  PyObject* tensor = PyType_FromSpec(&g_tensor_spec);
  if (!module || !tensor || PyModule_AddObject(module, "Tensor", tensor) < 0)
    return nullptr;
  return module;
}
