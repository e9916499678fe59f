#include "hook/optimizer_step.h"

#include "hook/gil.h"
#include "hook/held_tensors.h"
#include "hook/own_call.h"
#include "hook/python_frame.h"

#include <string_view>
#include <unordered_map>
#include <utility>

namespace memtrace {
namespace {

// Frames of torch between the wrapper of a step and the operator that opens or closes its scope.
constexpr int kMostFramesBetween = 8;

std::string_view text_of(PyObject* object) noexcept {
  Py_ssize_t size = 0;
  const char* text =
      object && PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &size) : nullptr;
  PyErr_Clear();
  return text ? std::string_view(text, static_cast<size_t>(size)) : std::string_view{};
}

bool is_optimizers(const PyCodeObject* code, std::string_view name) noexcept {
  return text_of(code->co_name) == name &&
         text_of(code->co_filename).ends_with("/torch/optim/optimizer.py");
}

// The optimizer whose scope this thread opens or closes, a new reference; null: another's scope.
OwnedObject optimizer_of_this_scope() noexcept {
  const RawFrame* frame = kFramesKnown ? innermost_frame(PyThreadState_Get()) : nullptr;
  for (int i = 0; frame && i < kMostFramesBetween; ++i, frame = outer_frame(frame)) {
    if (!is_visible(frame))
      continue;
    const auto* code = static_cast<const PyCodeObject*>(frame_code(frame));
    PyObject* const first = first_local(frame);
    if (code->co_argcount > 0 && is_optimizers(code, "zero_grad"))
      return OwnedObject(Py_XNewRef(first));
    // torch.optim.Optimizer.profile_hook_step.<locals>.wrapper(*args, **kwargs)
    if ((code->co_flags & CO_VARARGS) == 0 || code->co_argcount > 0 ||
        !is_optimizers(code, "wrapper"))
      continue;
    if (first && PyTuple_Check(first) && PyTuple_GET_SIZE(first) > 0)
      return OwnedObject(Py_NewRef(PyTuple_GET_ITEM(first, 0)));
    break;
  }
  return OwnedObject(nullptr);
}

// An attribute of the object's own dictionary: no code of its class runs.
OwnedObject own_attribute(PyObject* object, const char* name) noexcept {
  const OwnedObject own(PyObject_GenericGetDict(object, nullptr));
  PyObject* found = own ? PyDict_GetItemString(own.get(), name) : nullptr;
  PyErr_Clear();
  return OwnedObject(Py_XNewRef(found));
}

// Under the GIL, as all of this.
PyObject* g_on_old_state = nullptr;
constexpr size_t kMostSeen = 4096;

struct Seen {
  bool stepping = false;
  bool stepped = false; // since the last zero_grad
};
// By its state; once that is gone, whoever comes to its place may be looked at once less.
std::unordered_map<const PyObject*, Seen>* g_seen = nullptr; // never freed: threads may outlive it

// Null: no memory.
Seen* seen(const PyObject* state) noexcept {
  try {
    if (!g_seen)
      g_seen = new std::unordered_map<const PyObject*, Seen>;
    if (g_seen->size() >= kMostSeen)
      g_seen->clear(); // a program that makes optimizers without end; looks again
    return &(*g_seen)[state];
  } catch (...) {
    return nullptr;
  }
}

// Host memory is known by its birth, which was before the recording.
void look_at_old_state(PyObject* state) noexcept {
  if (!g_on_old_state || !PyDict_Check(state) || PyDict_GET_SIZE(state) == 0 ||
      (g_seen && g_seen->contains(state)))
    return;
  const OwnedObject callback(Py_NewRef(g_on_old_state));
  const OwnedObject result(call_own(callback.get(), state));
  if (PyErr_Occurred())
    raise_later();
}

// Under the GIL, with the param_groups and the state of the optimizer whose scope this is.
template <class Look> void with_optimizer(Look look) noexcept {
  const GilScope gil;
  if (!gil)
    return;
  const OwnedObject optimizer = optimizer_of_this_scope();
  if (!optimizer)
    return;
  const OwnedObject groups = own_attribute(optimizer.get(), "param_groups");
  const OwnedObject state = own_attribute(optimizer.get(), "state");
  if (groups && state)
    look(groups.get(), state.get());
}

} // namespace

void before_optimizer_step() noexcept {
  with_optimizer([](PyObject* groups, PyObject* state) noexcept {
    look_at_optimizer(groups);
    look_at_old_state(state);
    if (Seen* const it = seen(state))
      it->stepping = true;
  });
}

void after_optimizer_step() noexcept {
  with_optimizer([](PyObject*, PyObject* state) noexcept {
    look_at_state(state);
    if (Seen* const it = seen(state))
      *it = {.stepping = false, .stepped = true};
  });
}

void before_zero_grad() noexcept {
  with_optimizer([](PyObject* groups, PyObject* state) noexcept {
    if (g_seen && g_seen->contains(state)) {
      Seen& it = g_seen->at(state);
      if (it.stepping || std::exchange(it.stepped, false)) // a closure's, or nothing is new
        return;
    }
    look_at_optimizer(groups);
    look_at_old_state(state);
    look_at_state(state);
    seen(state);
  });
}

void set_old_state_callback(PyObject* callback) noexcept {
  PyObject* const old = g_on_old_state;
  g_on_old_state = Py_XNewRef(callback);
  Py_XDECREF(old);
}

void forget_optimizers() noexcept {
  delete std::exchange(g_seen, nullptr);
}

} // namespace memtrace
