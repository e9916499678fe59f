#include "hook/held_tensors.h"

#include "hook/backward_pass.h"
#include "hook/gil.h"
#include "hook/own_call.h"
#include "hook/plain_tensors.h"
#include "hook/python_objects.h"
#include "hook/tensor_record.h"

#include <ATen/SparseTensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace memtrace {
namespace {

using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl>;
using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

// Nested lists in the state of an optimizer (LBFGS keeps one of directions) are not deeper.
constexpr int kMostNesting = 4;
constexpr size_t kLeastSweep = 256;

// What was written last under one name. The reference keeps the storage's place from being
// another's.
class Written {
 public:
  // True: it is new, and from now on what was written last.
  bool renew(const c10::StorageImpl* storage, const at::Tensor& tensor) {
    const void* address = storage->data();
    if (storage == storage_ && address == address_)
      return false;
    weak_ = tensor.unsafeGetTensorImpl()->unsafe_storage().getWeakStorageImpl();
    storage_ = storage;
    address_ = address;
    return true;
  }
  bool has_died() const { return !weak_ || weak_->expired(); }

 private:
  std::optional<WeakStorage> weak_;
  const c10::StorageImpl* storage_ = nullptr;
  const void* address_ = nullptr;
};

struct Parameter {
  WeakTensor tensor;
  std::string name;
  bool has_own_name; // false: of its place in an optimizer
  uint32_t gradient_name = 0;
  Written gradient, gradient_indices; // indices: of a sparse one
};

struct StorageKey {
  const c10::StorageImpl* storage;
  int64_t offset; // several states may share a storage
  bool operator==(const StorageKey&) const = default;
};
struct StorageKeyHash {
  size_t operator()(const StorageKey& key) const noexcept {
    constexpr uint64_t kSpread = 0x9E3779B97F4A7C15ULL;
    return (reinterpret_cast<uintptr_t>(key.storage) ^ static_cast<uint64_t>(key.offset)) * kSpread;
  }
};

// Guarded by the GIL.
struct Held {
  std::vector<Parameter> parameters;
  std::unordered_multimap<const c10::TensorImpl*, size_t> places; // in `parameters`
  std::unordered_map<StorageKey, Written, StorageKeyHash> states;
  size_t sweep_parameters_at = kLeastSweep, sweep_states_at = kLeastSweep;
};
Held* g_held = nullptr; // never freed: threads may end after static destructors
PyObject* g_unnamed = nullptr;

Held& held() {
  if (!g_held)
    g_held = new Held;
  return *g_held;
}

void forget_dead_parameters(Held& all) {
  if (all.parameters.size() < all.sweep_parameters_at)
    return;
  std::erase_if(all.parameters, [](const Parameter& p) { return p.tensor.expired(); });
  all.places.clear();
  for (size_t i = 0; i < all.parameters.size(); ++i)
    all.places.emplace(all.parameters[i].tensor._unsafe_get_target(), i);
  all.sweep_parameters_at = all.parameters.size() * 2 + kLeastSweep;
}

void hold(const at::Tensor& tensor, std::string_view name, bool has_own_name) {
  Held& all = held();
  auto [at, end] = all.places.equal_range(tensor.unsafeGetTensorImpl());
  for (; at != end; ++at) {
    Parameter& known = all.parameters[at->second];
    if (known.name == name)
      return;
    if (!known.has_own_name) { // has one now
      known.name = name;
      known.has_own_name = has_own_name;
      known.gradient_name = 0;
      known.gradient = known.gradient_indices = Written();
      return;
    }
  }
  forget_dead_parameters(all);
  all.places.emplace(tensor.unsafeGetTensorImpl(), all.parameters.size());
  all.parameters.push_back(
      {WeakTensor(tensor.getIntrusivePtr()), std::string(name), has_own_name, 0, {}, {}});
}

// A DTensor (FSDP2, tensor parallel) holds this process's shard; others are themselves: undefined.
// They are not copied: a further reference to a tensor of Python's costs as much as all the rest.
at::Tensor shard_of(const at::Tensor& tensor) {
  if (!tensor.unsafeGetTensorImpl()->is_python_dispatch())
    return {};
  const OwnedObject wrapper(THPVariable_Wrap(tensor));
  PyObject* const local = wrapper ? local_tensor_of(wrapper.get()) : nullptr;
  if (!local || !THPVariable_Check(local))
    return {};
  return THPVariable_Unpack(local);
}

// Null: it holds its memory in another way.
const c10::StorageImpl* storage_of(const at::Tensor& tensor) {
  return tensor.defined() && tensor.unsafeGetTensorImpl()->has_storage()
             ? tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()
             : nullptr;
}

// Writes the record of a tensor, unless that was done.
void write_if_new(const HookScope& scope, Written& written, const at::Tensor& tensor, uint32_t name,
                  const char* kind) {
  const c10::StorageImpl* storage = storage_of(tensor);
  if (storage && written.renew(storage, tensor))
    write_tensor(scope, *tensor.unsafeGetTensorImpl(), name, intern(scope, kind));
}

// `local`: its shard's, if it has shards.
void look_at_gradient(const HookScope& scope, Parameter& parameter, const at::Tensor& local) {
  if (parameter.gradient_name == 0)
    parameter.gradient_name = intern(scope, "grad of " + parameter.name);
  const uint32_t name = parameter.gradient_name;
  // A wrapper may say that it is sparse, and hold nothing itself.
  const auto* sparse = dynamic_cast<const at::SparseTensorImpl*>(local.unsafeGetTensorImpl());
  if (!sparse)
    return write_if_new(scope, parameter.gradient, local, name, "gradient");
  write_if_new(scope, parameter.gradient, sparse->values(), name, "gradient");
  write_if_new(scope, parameter.gradient_indices, sparse->indices(), name, "gradient");
}

struct Gradient {
  WeakTensor parameter;
  at::Tensor gradient;
};

// Takes references alone: other threads may wait for it.
std::vector<Gradient> held_gradients() {
  std::vector<Gradient> found;
  if (g_held)
    for (const Parameter& parameter : g_held->parameters)
      if (const auto impl = parameter.tensor.lock(); impl && impl->grad().defined())
        found.push_back({parameter.tensor, impl->grad()});
  return found;
}

void look_at_all(std::vector<Gradient> gradients) {
  // Python may collect here, and run code of the program's.
  for (Gradient& each : gradients)
    if (at::Tensor shard = shard_of(each.gradient); shard.defined())
      each.gradient = std::move(shard);
  const HookScope scope;
  if (!scope)
    return;
  for (const auto& [parameter, gradient] : gradients) {
    auto [at, end] = held().places.equal_range(parameter._unsafe_get_target());
    for (; at != end; ++at)
      look_at_gradient(scope, held().parameters[at->second], gradient);
  }
}

// ---- optimizers ---------------------------------------------------------------------------------

template <class Visit> void each_parameter(PyObject* param_groups, Visit visit) {
  if (!PyList_Check(param_groups))
    return;
  for (Py_ssize_t group = 0; group < PyList_GET_SIZE(param_groups); ++group) {
    PyObject* const options = PyList_GET_ITEM(param_groups, group);
    PyObject* const list =
        PyDict_Check(options) ? PyDict_GetItemString(options, "params") : nullptr;
    for (Py_ssize_t i = 0; list && PyList_Check(list) && i < PyList_GET_SIZE(list); ++i)
      if (THPVariable_Check(PyList_GET_ITEM(list, i)))
        visit(THPVariable_Unpack(PyList_GET_ITEM(list, i)), group, i);
  }
}

bool is_held(const at::Tensor& tensor) {
  return held().places.contains(tensor.unsafeGetTensorImpl());
}

// A look at the models first: an optimizer's parameter is mostly one of theirs.
void name_parameters(PyObject* param_groups) {
  bool unnamed = false;
  const auto look = [&](const at::Tensor& tensor, auto...) { unnamed |= !is_held(tensor); };
  each_parameter(param_groups, look);
  if (unnamed && g_unnamed) {
    const OwnedObject callback(Py_NewRef(g_unnamed));
    const OwnedObject result(call_own(callback.get()));
    if (PyErr_Occurred())
      return raise_later();
  }
  if (unnamed)
    each_parameter(param_groups, [](const at::Tensor& tensor, Py_ssize_t group, Py_ssize_t i) {
      if (!is_held(tensor))
        hold(tensor,
             "param_groups[" + std::to_string(group) + "].params[" + std::to_string(i) + "]",
             false);
    });
}

// One tensor of the state of a parameter. Its name is put together only when it is new.
struct StateOf {
  const HookScope& scope;
  PyObject* parameter;

  // Not by str(): that runs signal handlers first, also for a plain string.
  static std::string text_of(PyObject* key) {
    if (const char* text = PyUnicode_Check(key) ? PyUnicode_AsUTF8(key) : nullptr)
      return text;
    int overflow = 0;
    const long long number = PyLong_Check(key) ? PyLong_AsLongLongAndOverflow(key, &overflow) : -1;
    PyErr_Clear(); // a string that is no UTF-8
    return PyLong_Check(key) && overflow == 0 ? std::to_string(number) : "state";
  }

  std::string name(PyObject* key) const {
    std::string owner;
    if (THPVariable_Check(parameter)) {
      const auto [first, end] =
          held().places.equal_range(THPVariable_Unpack(parameter).unsafeGetTensorImpl());
      // Of several names (tied weights) the one that named_parameters() gives, too.
      const auto found = std::min_element(
          first, end, [](const auto& a, const auto& b) { return a.second < b.second; });
      if (found != end)
        owner = held().parameters[found->second].name;
    }
    return owner.empty() ? text_of(key) : text_of(key) + " of " + owner;
  }

  void visit(PyObject* key, PyObject* value, int nesting) const {
    if (THPVariable_Check(value)) {
      const at::Tensor& whole = THPVariable_Unpack(value);
      if (!whole.unsafeGetTensorImpl()->is_python_dispatch())
        return tensor(key, whole);
      for (const PlainTensor& plain : plain_tensors(value)) // a shard, numbers of 8 bits and scales
        tensor(key, plain.tensor);
      return;
    }
    if (nesting == kMostNesting)
      return;
    if (PyDict_Check(value)) {
      PyObject *inner_key = nullptr, *inner = nullptr;
      for (Py_ssize_t at = 0; PyDict_Next(value, &at, &inner_key, &inner);)
        visit(inner_key, inner, nesting + 1);
    } else if (PyList_Check(value)) {
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i)
        visit(key, PyList_GET_ITEM(value, i), nesting + 1);
    } else if (PyTuple_Check(value)) {
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i)
        visit(key, PyTuple_GET_ITEM(value, i), nesting + 1);
    }
  }

  void tensor(PyObject* key, const at::Tensor& tensor) const {
    const c10::StorageImpl* storage = storage_of(tensor);
    if (!storage)
      return;
    const StorageKey place{storage, tensor.unsafeGetTensorImpl()->storage_offset()};
    Written& written = held().states[place];
    if (!written.renew(place.storage, tensor))
      return;
    write_tensor(scope, *tensor.unsafeGetTensorImpl(), intern(scope, name(key)),
                 intern(scope, "optimizer_state"));
  }
};

void forget_dead_states(Held& all) {
  if (all.states.size() < all.sweep_states_at)
    return;
  std::erase_if(all.states, [](const auto& entry) { return entry.second.has_died(); });
  all.sweep_states_at = all.states.size() * 2 + kLeastSweep;
}

// Nothing of ours may come out: no memory, and what THPVariable_Check throws.
template <class Action> void dropping_errors(Action action) noexcept {
  try {
    action();
  } catch (...) {
    drop_own_exception();
  }
}

} // namespace

void hold_parameter(PyObject* parameter, std::string_view name) noexcept {
  dropping_errors([&] {
    if (THPVariable_Check(parameter))
      hold(THPVariable_Unpack(parameter), name, true);
  });
}

void let_go_of(PyObject* parameter) noexcept {
  dropping_errors([&] {
    if (!g_held || !THPVariable_Check(parameter))
      return;
    const auto [first, end] =
        g_held->places.equal_range(THPVariable_Unpack(parameter).unsafeGetTensorImpl());
    for (auto at = first; at != end; ++at)
      g_held->parameters[at->second].tensor.reset();
    g_held->places.erase(first, end);
  });
}

void set_unnamed_callback(PyObject* callback) noexcept {
  PyObject* const old = g_unnamed;
  g_unnamed = Py_XNewRef(callback);
  Py_XDECREF(old);
}

void look_at_gradients() noexcept {
  const GilScope gil;
  if (!gil)
    return;
  dropping_errors([] {
    std::vector<Gradient> gradients;
    while_no_backward([&] { gradients = held_gradients(); });
    look_at_all(std::move(gradients));
  });
}

void look_at_optimizer(PyObject* param_groups) noexcept {
  note_training_thread(record_function_thread());
  dropping_errors([&] {
    name_parameters(param_groups);
    std::vector<Gradient> gradients;
    each_parameter(param_groups, [&](const at::Tensor& tensor, auto...) {
      if (const at::Tensor& gradient = tensor.unsafeGetTensorImpl()->grad(); gradient.defined())
        gradients.push_back({WeakTensor(tensor.getIntrusivePtr()), gradient});
    });
    look_at_all(std::move(gradients));
  });
}

void look_at_state(PyObject* state) noexcept {
  dropping_errors([&] {
    const HookScope scope;
    if (!scope || !PyDict_Check(state))
      return;
    forget_dead_states(held());
    PyObject *parameter = nullptr, *of_parameter = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(state, &at, &parameter, &of_parameter);)
      StateOf{scope, parameter}.visit(parameter, of_parameter, 0);
  });
}

void forget_held_tensors() noexcept {
  delete std::exchange(g_held, nullptr);
}

} // namespace memtrace
