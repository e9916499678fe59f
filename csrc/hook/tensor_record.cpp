#include "hook/tensor_record.h"

#include <array>
#include <c10/core/TensorImpl.h>
#include <cctype>
#include <utility>

namespace memtrace {
namespace {

// c10 knows the older types by others than torch's names.
std::string dtype_name(c10::ScalarType type) {
  static constexpr std::array<std::pair<c10::ScalarType, const char*>, 11> kOwn = {
      {{c10::ScalarType::Byte, "uint8"},
       {c10::ScalarType::Char, "int8"},
       {c10::ScalarType::Short, "int16"},
       {c10::ScalarType::Int, "int32"},
       {c10::ScalarType::Long, "int64"},
       {c10::ScalarType::Half, "float16"},
       {c10::ScalarType::Float, "float32"},
       {c10::ScalarType::Double, "float64"},
       {c10::ScalarType::ComplexHalf, "complex32"},
       {c10::ScalarType::ComplexFloat, "complex64"},
       {c10::ScalarType::ComplexDouble, "complex128"}}};
  for (const auto& [known, name] : kOwn)
    if (known == type)
      return name;
  std::string name = c10::toString(type);
  for (char& letter : name)
    letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return name;
}

} // namespace

StorageFacts storage_facts(const c10::TensorImpl& tensor) noexcept {
  StorageFacts facts;
  if (tensor.has_symbolic_sizes_strides() || !tensor.has_storage())
    return facts;
  c10::StorageImpl& storage = *tensor.unsafe_storage().unsafeGetStorageImpl();
  const c10::Device device = storage.device();
  if (storage.sym_nbytes().is_heap_allocated() || !(device.is_cpu() || device.is_cuda()))
    return facts;
  facts.device = device.is_cuda() ? cuda_device(device.index()) : kCpu;
  facts.address = reinterpret_cast<uintptr_t>(storage._mutable_data_ptr_no_checks().get());
  facts.size_bytes = storage.nbytes();
  if (!tensor.is_python_dispatch())
    facts.offset_bytes = static_cast<uint64_t>(tensor.storage_offset()) * tensor.itemsize();
  return facts;
}

std::string layout_of(const c10::TensorImpl& tensor) {
  std::string layout = dtype_name(c10::typeMetaToScalarType(tensor.dtype()));
  char before = ' ';
  for (const int64_t size : tensor.sizes_default()) {
    (layout += before) += std::to_string(size);
    before = 'x';
  }
  return layout;
}

uint32_t TensorWriter::layout(const c10::TensorImpl& tensor) {
  if (!last_ || last_->dtype() != tensor.dtype() ||
      last_->sizes_default() != tensor.sizes_default())
    last_layout_ = intern(scope_, layout_of(tensor));
  last_ = &tensor;
  return last_layout_;
}

void TensorWriter::write(const c10::TensorImpl& tensor, uint32_t name, uint32_t kind) {
  const StorageFacts storage = storage_facts(tensor);
  if (storage.address == 0 || storage.size_bytes == 0)
    return;
  TensorRecord record{};
  record.address = storage.address;
  record.size_bytes = storage.size_bytes;
  record.offset_bytes = storage.offset_bytes;
  record.name = name;
  record.kind = kind;
  record.layout = layout(tensor);
  record.tail = {0, 0, storage.device, Action::tensor};
  write_record(scope_, record);
  flush_full_window(scope_);
}

} // namespace memtrace
