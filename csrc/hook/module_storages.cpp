#include "hook/module_storages.h"

#include "hook/python_objects.h"

#include <torch/csrc/autograd/python_variable.h>

namespace memtrace {
namespace {

constexpr unsigned kMostDepth = 32;
constexpr unsigned kMostModules = 16384;

class Walk {
 public:
  explicit Walk(const CallClasses& classes) noexcept : classes_(classes) {}

  uint64_t number() const noexcept { return number_; }

  void module(PyObject* module, unsigned depth) noexcept {
    static const Key parameters("_parameters"), buffers("_buffers"), modules("_modules");
    if (depth > kMostDepth || ++modules_ > kMostModules)
      return;
    tensors(parameters.of(module));
    tensors(buffers.of(module));
    PyObject* const children = modules.of(module);
    PyObject *key = nullptr, *child = nullptr;
    for (Py_ssize_t at = 0;
         children && PyDict_Check(children) && PyDict_Next(children, &at, &key, &child);)
      if (PyObject_TypeCheck(child, classes_.module))
        this->module(child, depth + 1);
  }

 private:
  void tensors(PyObject* table) noexcept {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t at = 0; table && PyDict_Check(table) && PyDict_Next(table, &at, &key, &value);)
      if (PyObject_TypeCheck(value, classes_.tensor))
        tensor(value);
  }

  void tensor(PyObject* object) noexcept {
    const at::Tensor* tensor = &THPVariable_Unpack(object);
    if (tensor->defined() && tensor->unsafeGetTensorImpl()->is_python_dispatch())
      if (PyObject* const local = local_tensor_of(object);
          local && PyType_IsSubtype(Py_TYPE(local), classes_.tensor))
        tensor = &THPVariable_Unpack(local);
    if (!tensor->defined() || !tensor->unsafeGetTensorImpl()->has_storage())
      return;
    const c10::StorageImpl* storage =
        tensor->unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
    mix(reinterpret_cast<uintptr_t>(storage));
    if (!storage->sym_nbytes().is_heap_allocated()) {
      mix(reinterpret_cast<uintptr_t>(
          const_cast<c10::StorageImpl*>(storage)->_mutable_data_ptr_no_checks().get()));
      mix(storage->nbytes());
    }
  }

  void mix(uint64_t value) noexcept {
    constexpr uint64_t kSpread = 0x9E3779B97F4A7C15ULL;
    number_ = (number_ ^ value) * kSpread;
    number_ ^= number_ >> 32;
  }

  const CallClasses& classes_;
  uint64_t number_ = 0;
  unsigned modules_ = 0;
};

} // namespace

uint64_t storages_of(PyObject* module, const CallClasses& classes) noexcept {
  Walk walk(classes);
  walk.module(module, 0);
  return walk.number();
}

} // namespace memtrace
