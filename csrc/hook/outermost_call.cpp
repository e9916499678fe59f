#include "hook/python_frame.h"

#include "hook/outermost_call.h"
#include "hook/own_call.h"
#include "hook/python_objects.h"
#include "hook/walk_gate.h"

#include <cstdint>

namespace memtrace {
namespace {

// The outermost call that a thread is in. Kept by value and matched by its number, not as a depth:
// a greenlet may leave in the middle of a call for another one on the same C stack, and never come
// back.
struct Outermost {
  uintptr_t stack_address; // inner calls lie below it; 0: none
  uint64_t number;
};
__attribute__((tls_model("initial-exec"))) thread_local Outermost t_outermost{};

PyFunctionObject* g_function = nullptr; // Module._call_impl; kept for ever once known
vectorcallfunc g_original = nullptr;
OnOutermostCall g_on_call = nullptr;
uint64_t g_calls = 0; // outermost ones so far, under the GIL

PyObject* on_call_among_greenlets(PyObject* function, PyObject* const* args, size_t nargsf,
                                  PyObject* names);

bool is_among_greenlets() noexcept {
  return g_function->vectorcall == on_call_among_greenlets;
}

// Python's state of this thread, for a call that begins: one that is known to be under way around
// it has it already. Null among greenlets: one that never comes back to its call would leave it
// there for longer than the thread's state lives.
inline void* thread_of_call(const FrozenFrames& frames) noexcept {
  const FrozenFrames::Call& around = *frames.innermost;
  if (around.thread || around.caller)
    return around.thread;
  return is_among_greenlets() ? nullptr : PyThreadState_Get();
}

inline PyObject* call_original(PyObject* function, PyObject* const* args, size_t nargsf,
                               PyObject* names) {
  WalkMark* const mark = t_walk_mark; // null: no stack was taken yet on this thread
  if (!mark || mark->frozen.is_full()) [[unlikely]]
    return g_original(function, args, nargsf, names);
  void* const thread = thread_of_call(mark->frozen);
  const RawFrame* const caller =
      innermost_frame(thread ? static_cast<PyThreadState*>(thread) : PyThreadState_Get());
  if (!caller) [[unlikely]]
    return g_original(function, args, nargsf, names);
  const FrozenCall frozen(mark->frozen, thread, caller);
  return g_original(function, args, nargsf, names);
}

void set_vectorcall(vectorcallfunc call) noexcept {
  g_function->vectorcall = call;
#if PY_VERSION_HEX >= 0x030B0000
  g_function->func_version = 0; // call sites that were specialised for it ask again
#endif
}

// Is a call under way on this thread that was not seen? A recording may start inside one; a
// greenlet may come back to its own after others were here. The frames are this greenlet's alone.
bool is_inside_call() noexcept {
  const PyObject* const code = g_function->func_code;
  for (const RawFrame* frame = innermost_frame(PyThreadState_Get()); frame;
       frame = outer_frame(frame))
    if (frame_code(frame) == code)
      return true;
  return false;
}

// Greenlets may exist once their library is there: from the next call on, frames tell.
void look_for_greenlets() noexcept {
  static const Key library("greenlet");
  if (!is_among_greenlets() && library.in(PyImport_GetModuleDict()))
    set_vectorcall(on_call_among_greenlets);
}

[[gnu::noinline]] PyObject* call_outermost(const ModuleCall& call, uintptr_t stack_address) {
  if (!g_on_call || PyVectorcall_NARGS(call.nargsf) < 1 || is_inside_call())
    return call.go_on();
  look_for_greenlets();
  const uint64_t number = ++g_calls;
  t_outermost = {stack_address, number};
  PyObject* const result = g_on_call(call);
  if (t_outermost.number == number)
    t_outermost = {};
  return result;
}

PyObject* on_call(PyObject* function, PyObject* const* args, size_t nargsf, PyObject* names) {
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  if (t_outermost.stack_address <= here) [[unlikely]]
    return call_outermost({function, args, nargsf, names}, here);
  return call_original(function, args, nargsf, names);
}

// A greenlet may leave in the middle of a call for another one, whose calls lie below on the C
// stack but are not inner ones: addresses say nothing.
PyObject* on_call_among_greenlets(PyObject* function, PyObject* const* args, size_t nargsf,
                                  PyObject* names) {
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return call_outermost({function, args, nargsf, names}, here);
}

bool is_ours(vectorcallfunc call) noexcept {
  return call == on_call || call == on_call_among_greenlets;
}

} // namespace

PyObject* ModuleCall::go_on() const {
  return call_original(function, args, nargsf, names);
}

bool watch_outermost_calls(PyObject* module_class, OnOutermostCall on_outermost) {
  const OwnedObject found = own_call::attribute(module_class, "_call_impl");
  if (!kFramesKnown || !found || !PyFunction_Check(found.get()))
    return false;
  auto* const function = reinterpret_cast<PyFunctionObject*>(found.get());
  if (!g_function) {
    g_function = reinterpret_cast<PyFunctionObject*>(Py_NewRef(found.get()));
    g_original = function->vectorcall;
  }
  if (function != g_function ||
      (function->vectorcall != g_original && !is_ours(function->vectorcall)))
    return false;
  g_on_call = on_outermost;
  set_vectorcall(on_call);
  return true;
}

void unwatch_outermost_calls() noexcept {
  g_on_call = nullptr;
  if (g_function && is_ours(g_function->vectorcall))
    set_vectorcall(g_original);
}

} // namespace memtrace
