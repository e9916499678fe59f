#include "hook/marked_step.h"

#include "hook/python_context.h"
#include "hook/walk_gate.h"
#include "record/clock.h"

namespace memtrace {
namespace {

#ifdef Py_GIL_DISABLED
constexpr bool kContextsKnown = false;
#else
constexpr bool kContextsKnown = PY_VERSION_HEX >= 0x030A0000 && PY_VERSION_HEX < 0x030E0000;
#endif

ContextVariable g_variable;           // set once, before g_step_changes is not 0
std::atomic<uint32_t> g_of_recording; // the upper half of its values

// The number of the step that a value of the variable stands for; 0: none of this recording.
uint32_t number_of(PyObject* value) noexcept {
  if (!value || !PyLong_CheckExact(value))
    return 0;
  const uint64_t both = PyLong_AsUnsignedLongLong(value); // fits: nothing is raised
  return both >> 32U == g_of_recording.load(std::memory_order_relaxed) ? static_cast<uint32_t>(both)
                                                                       : 0;
}

// Does Python itself read the same here?
bool reads_as_python(PyObject* variable) {
  PyObject* value = nullptr;
  if (PyContextVar_Get(variable, nullptr, &value) != 0) {
    PyErr_Clear();
    return false;
  }
  const bool same = value_in_context(PyThreadState_Get(), g_variable) == value;
  Py_XDECREF(value);
  return same;
}

} // namespace

bool steps_changed(PyObject* variable, uint32_t recording) {
  if (!kContextsKnown)
    return false;
  if (!g_variable.object)
    g_variable = ContextVariable::of(Py_NewRef(variable));
  if (g_variable.object != variable || !reads_as_python(variable))
    return false;
  g_of_recording.store(recording, std::memory_order_relaxed);
  g_step_changes.fetch_add(1, std::memory_order_release);
  return true;
}

void forget_steps() noexcept {
  g_step_changes.store(0, std::memory_order_relaxed);
}

void find_marked_step(ThreadState& state, const Recording& recording) noexcept {
  const WalkScope scope;
  PyThreadState* const thread = scope ? PyGILState_GetThisThreadState() : nullptr;
  if (!thread)
    return;
  const uint64_t changes = g_step_changes.load(std::memory_order_acquire);
  if (state.step_changes == changes && state.context_version == thread->context_ver)
    return;
  state.step_changes = changes;
  state.context_version = thread->context_ver;
  const uint32_t number = number_of(value_in_context(thread, g_variable));
  if (number == state.marked_step)
    return;
  Record* record = state.log->reserve();
  if (!record)
    return recording.lose(Loss::record_no_space);
  Note& note = record->note = {};
  note.ticks = ticks_before();
  note.value = number;
  state.marked_step = number;
  state.log->publish({state.thread, 0, kCpu, Action::in_step});
}

} // namespace memtrace
