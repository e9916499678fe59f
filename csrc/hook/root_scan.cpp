#include "hook/root_scan.h"

#include "hook/own_call.h"

#include <atomic>

namespace memtrace {
namespace {

std::atomic<bool> g_pending{false};
std::atomic<bool> g_wanted{false};
PyObject* g_callback = nullptr; // changed and read under the GIL

int run_callback(void*) {
  g_pending.store(false);
  if (!g_callback)
    return 0;
  const OwnedObject callback(Py_NewRef(g_callback));
  const OwnedObject result(call_own(callback.get()));
  return PyErr_Occurred() ? -1 : 0; // of a signal handler: it surfaces at this line of the program
}

} // namespace

void set_root_callback(PyObject* callback) {
  PyObject* old = g_callback;
  g_callback = callback ? Py_NewRef(callback) : nullptr;
  g_wanted.store(callback != nullptr);
  Py_XDECREF(old);
}

void request_root_scan() noexcept {
  if (g_pending.load(std::memory_order_relaxed) || !g_wanted.load())
    return;
  if (g_pending.exchange(true))
    return;
  if (Py_AddPendingCall(run_callback, nullptr) != 0)
    g_pending.store(false); // the queue is full; asked again at the next operator
}

void forget_root_scan() noexcept {
  g_pending.store(false);
}

} // namespace memtrace
