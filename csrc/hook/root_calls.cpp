#include "hook/python_frame.h"

#include "hook/call_tensors.h"
#include "hook/own_call.h"
#include "hook/python_stack.h"
#include "hook/root_calls.h"
#include "hook/step_records.h"
#include "record/clock.h"

#include <torch/csrc/autograd/graph_task.h>
#include <unordered_map>
#include <utility>

namespace memtrace {
namespace {

// The root call that a thread is in. Kept by value, and matched by its number: a greenlet may leave
// in the middle of a call for another one on the same C stack, and never come back.
struct RootCall {
  uintptr_t stack_address; // inner calls lie below it; 0: none
  uint64_t number;
};
__attribute__((tls_model("initial-exec"))) thread_local RootCall t_root{};

PyFunctionObject* g_function = nullptr; // Module._call_impl; kept for ever once known
vectorcallfunc g_original = nullptr;
CallClasses g_classes;
uint64_t g_calls = 0; // root calls so far, under the GIL
uint64_t g_steps = 0; // of this recording

// ---- looks at the weights
// ------------------------------------------------------------------------

// Of a program's time, at most one part in so many goes into them.
constexpr uint64_t kLookShare = 200;
PyObject* g_look = nullptr;
uint64_t g_look_due_ns = 0;
std::unordered_map<uint32_t, bool> g_called_twice; // by module id

// The module that is to be looked at before this call, None for all, or null: nothing.
PyObject* due_look(PyObject* module, const Recording* recording) {
  if (!g_look || !recording->stacks)
    return nullptr;
  uint32_t id = 0;
  if (const HookScope scope; scope && &scope.recording() == recording)
    id = recording->stacks->module_id(module);
  bool second = false;
  if (id != 0) {
    const auto [call, first] = g_called_twice.try_emplace(id, false);
    second = !first && !std::exchange(call->second, true);
  }
  if (clock_ns(CLOCK_MONOTONIC) >= g_look_due_ns)
    return Py_None;
  return second ? module : nullptr;
}

// False: a signal handler of the program raised, and the call must not happen.
bool look_at(PyObject* which) {
  g_look_due_ns = UINT64_MAX; // no other thread meanwhile
  const uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
  const OwnedObject look(Py_NewRef(g_look));
  const OwnedObject done(call_own(look.get(), which));
  const uint64_t end_ns = clock_ns(CLOCK_MONOTONIC);
  g_look_due_ns = end_ns + kLookShare * (end_ns - start_ns);
  return !PyErr_Occurred();
}

// ---- calls
// ---------------------------------------------------------------------------------------

// Is a call of a module under way on this thread, seen by us or not? A recording may start inside
// one; a greenlet may come back to one after others were here.
bool is_inside_call() noexcept {
  for (const RawFrame* frame = innermost_frame(PyThreadState_Get()); frame;
       frame = outer_frame(frame))
    if (frame_code(frame) == g_function->func_code)
      return true;
  return false;
}

// The step's number; 0: the call is none. False: it must not happen (look_at).
bool begin_step(uint64_t& step, bool& has_cache, const Recording* recording, PyObject* module,
                PyObject* const* args, size_t count, PyObject* names) {
  try {
    CallTensors inputs(g_classes);
    inputs.read_arguments(module, args, count, names);
    if (inputs.only_stand_ins())
      return true;
    if (PyObject* which = due_look(module, recording)) {
      if (!look_at(which))
        return false;
      inputs = CallTensors(g_classes); // other threads may have run meanwhile
      inputs.read_arguments(module, args, count, names);
    }
    has_cache = inputs.saw_cache();
    step = ++g_steps;
    write_step_begin(recording, step, Py_TYPE(called_module(module, g_classes))->tp_name, inputs);
  } catch (...) { // no memory: less is written
  }
  return true;
}

void end_step(uint64_t step, bool has_cache, const Recording* recording, PyObject* result,
              PyObject* module, PyObject* const* args, size_t count, PyObject* names) {
  PyObject *error = nullptr, *value = nullptr, *traceback = nullptr;
  if (!result)
    PyErr_Fetch(&error, &value, &traceback);
  try {
    CallTensors outputs(g_classes);
    if (result)
      outputs.read_result(result);
    CallTensors caches(g_classes); // those that it was given, as they are now
    if (has_cache)
      caches.read_arguments(module, args, count, names);
    write_step_end(recording, step, error, outputs, caches);
  } catch (...) {
  }
  if (!result)
    PyErr_Restore(error, value, traceback);
}

[[gnu::noinline]] PyObject* call_outermost(PyObject* function, PyObject* const* args, size_t nargsf,
                                           PyObject* names, uintptr_t stack_address) {
  const auto count = static_cast<size_t>(PyVectorcall_NARGS(nargsf));
  // Its hooks may be turned off by another thread at any time; it lives for ever.
  const Recording* const recording = g_recording.load(std::memory_order_acquire);
  if (!recording || count == 0 || is_inside_call())
    return g_original(function, args, nargsf, names);
  const uint64_t number = ++g_calls;
  t_root = {stack_address, number};
  PyObject* result = nullptr;
  if (torch::autograd::get_current_graph_task_id() != -1) {
    write_mark(recording, "recompute_begin");
    result = g_original(function, args, nargsf, names);
    write_mark(recording, "recompute_end");
  } else {
    uint64_t step = 0;
    bool has_cache = false;
    if (begin_step(step, has_cache, recording, args[0], args + 1, count - 1, names)) {
      result = g_original(function, args, nargsf, names);
      if (step != 0)
        end_step(step, has_cache, recording, result, args[0], args + 1, count - 1, names);
    }
  }
  if (t_root.number == number)
    t_root = {};
  return result;
}

PyObject* on_call(PyObject* function, PyObject* const* args, size_t nargsf, PyObject* names) {
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  if (t_root.stack_address <= here && g_recording.load(std::memory_order_relaxed)) [[unlikely]]
    return call_outermost(function, args, nargsf, names, here);
  return g_original(function, args, nargsf, names);
}

void set_vectorcall(PyFunctionObject* function, vectorcallfunc call) noexcept {
  function->vectorcall = call;
#if PY_VERSION_HEX >= 0x030B0000
  function->func_version = 0; // call sites that were specialised for it ask again
#endif
}

} // namespace

bool install_root_calls(PyObject* module_class, PyObject* tensor_class) {
  if (!kFramesKnown || !PyType_Check(module_class) || !PyType_Check(tensor_class))
    return false;
  const OwnedObject function = own_call::attribute(module_class, "_call_impl");
  if (!function || !PyFunction_Check(function.get()))
    return false;
  auto* call = reinterpret_cast<PyFunctionObject*>(function.get());
  if (!g_function) {
    g_function = reinterpret_cast<PyFunctionObject*>(Py_NewRef(function.get()));
    g_original = call->vectorcall;
    g_classes = {reinterpret_cast<PyTypeObject*>(Py_NewRef(tensor_class)),
                 reinterpret_cast<PyTypeObject*>(Py_NewRef(module_class)),
                 PyImport_GetModuleDict()};
  }
  if (call != g_function || call->vectorcall != g_original)
    return false;
  g_steps = 0;
  g_look_due_ns = 0;
  g_called_twice.clear();
  set_vectorcall(call, on_call);
  return true;
}

void remove_root_calls() noexcept {
  if (g_function && g_function->vectorcall == on_call)
    set_vectorcall(g_function, g_original);
}

void set_look(PyObject* look) {
  PyObject* old = g_look;
  g_look = look ? Py_NewRef(look) : nullptr;
  Py_XDECREF(old);
}

} // namespace memtrace
