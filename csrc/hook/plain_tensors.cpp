#include "hook/plain_tensors.h"

#include "hook/python_objects.h"

#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string_view>
#include <utility>

namespace memtrace {
namespace {

constexpr unsigned kMostDepth = 8;
constexpr size_t kMostParts = 256;

class Parts {
 public:
  explicit Parts(std::vector<PlainTensor>& found) : found_(found) {}

  void object(PyObject* object, const std::string& part, unsigned depth) {
    const at::Tensor& tensor = THPVariable_Unpack(object);
    if (!tensor.defined() || depth > kMostDepth || found_.size() >= kMostParts)
      return;
    if (!tensor.unsafeGetTensorImpl()->is_python_dispatch())
      return this->tensor(tensor, part);
    PyObject* const local = local_tensor_of(object);
    if (local && THPVariable_Check(local))
      return this->object(local, part, depth + 1);
    const size_t before = found_.size();
    Attributes attributes(object);
    for (PyObject *name = nullptr, *value = nullptr; attributes.next(name, value);)
      if (PyUnicode_Check(name) && THPVariable_Check(value))
        this->object(value, inside(part, text_of(name)), depth + 1);
    if (found_.size() == before) // a subclass with memory of its own
      this->tensor(tensor, part);
  }

 private:
  static std::string_view text_of(PyObject* name) {
    const char* const text = PyUnicode_AsUTF8(name);
    if (!text)
      PyErr_Clear();
    return text ? text : "?";
  }

  static std::string inside(const std::string& part, std::string_view name) {
    return part.empty() ? std::string(name) : part + '.' + std::string(name);
  }

  void tensor(const at::Tensor& given, const std::string& part) {
    const at::Tensor* tensor = &given;
    while (const auto* batched = at::functorch::maybeGetBatchedImpl(*tensor)) // of vmap
      tensor = &batched->value();
    c10::TensorImpl* const impl = tensor->unsafeGetTensorImpl();
    if (const auto* coo = dynamic_cast<const at::SparseTensorImpl*>(impl)) {
      plain(coo->indices(), inside(part, "indices"));
      plain(coo->values(), inside(part, "values"));
    } else if (const auto* csr = dynamic_cast<const at::SparseCsrTensorImpl*>(impl)) {
      plain(csr->compressed_indices(), inside(part, "compressed_indices"));
      plain(csr->plain_indices(), inside(part, "indices"));
      plain(csr->values(), inside(part, "values"));
    } else {
      plain(*tensor, part);
    }
  }

  void plain(const at::Tensor& tensor, std::string part) {
    const c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
    if (tensor.defined() && impl->has_storage() && !impl->has_symbolic_sizes_strides())
      found_.push_back({std::move(part), tensor});
  }

  std::vector<PlainTensor>& found_;
};

} // namespace

std::vector<PlainTensor> plain_tensors(PyObject* tensor) {
  std::vector<PlainTensor> found;
  if (THPVariable_Check(tensor))
    Parts(found).object(tensor, "", 0);
  return found;
}

} // namespace memtrace
