#include "hook/optimizer_step.h"

#include "hook/gil.h"
#include "hook/held_tensors.h"
#include "hook/own_call.h"
#include "hook/python_frame.h"

#include <string_view>

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

// torch.optim.Optimizer.profile_hook_step.<locals>.wrapper(*args, **kwargs)
bool is_step_wrapper(const RawFrame* frame) noexcept {
  if (!is_visible(frame))
    return false;
  const auto* code = static_cast<const PyCodeObject*>(frame_code(frame));
  return (code->co_flags & CO_VARARGS) != 0 && code->co_argcount == 0 &&
         text_of(code->co_name) == "wrapper" &&
         text_of(code->co_filename).ends_with("/torch/optim/optimizer.py");
}

// The optimizer whose step this thread is in, a new reference; null: another's scope.
OwnedObject optimizer_of_this_step() noexcept {
  const RawFrame* frame = kFramesKnown ? innermost_frame(PyThreadState_Get()) : nullptr;
  for (int i = 0; frame && i < kMostFramesBetween; ++i, frame = outer_frame(frame)) {
    if (!is_step_wrapper(frame))
      continue;
    PyObject* args = first_local(frame);
    if (args && PyTuple_Check(args) && PyTuple_GET_SIZE(args) > 0)
      return OwnedObject(Py_NewRef(PyTuple_GET_ITEM(args, 0)));
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

} // namespace

void before_optimizer_step() noexcept {
  const GilScope gil;
  if (!gil)
    return;
  if (const OwnedObject optimizer = optimizer_of_this_step())
    if (const OwnedObject groups = own_attribute(optimizer.get(), "param_groups"))
      look_at_optimizer(groups.get());
}

void after_optimizer_step() noexcept {
  const GilScope gil;
  if (!gil)
    return;
  if (const OwnedObject optimizer = optimizer_of_this_step())
    if (const OwnedObject state = own_attribute(optimizer.get(), "state"))
      look_at_state(state.get());
}

} // namespace memtrace
