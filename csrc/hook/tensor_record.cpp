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

TensorFacts facts_of(const c10::TensorImpl& tensor) {
  TensorFacts facts;
  if (tensor.has_symbolic_sizes_strides())
    return facts;
  facts.layout = dtype_name(c10::typeMetaToScalarType(tensor.dtype()));
  char before = ' ';
  for (const int64_t size : tensor.sizes_default()) {
    (facts.layout += before) += std::to_string(size);
    before = 'x';
  }
  if (!tensor.has_storage())
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

void write_tensor(const HookScope& scope, const TensorFacts& tensor, uint32_t name,
                  uint32_t kind) noexcept {
  if (tensor.address == 0 || tensor.size_bytes == 0)
    return;
  TensorRecord record{};
  record.address = tensor.address;
  record.size_bytes = tensor.size_bytes;
  record.offset_bytes = tensor.offset_bytes;
  record.name = name;
  record.kind = kind;
  record.layout = intern(scope, tensor.layout);
  record.tail = {0, 0, tensor.device, Action::tensor};
  write_record(scope, record);
  flush_full_window(scope);
}

} // namespace memtrace
