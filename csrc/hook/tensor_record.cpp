#include "hook/tensor_record.h"

#include <array>
#include <c10/core/TensorImpl.h>
#include <cctype>
#include <utility>
#include <vector>

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

// Its dtype, by torch's own name, and its shape: "float32 2x8x64", "float32".
std::string layout_of(const c10::TensorImpl& tensor) {
  std::string layout = dtype_name(c10::typeMetaToScalarType(tensor.dtype()));
  char before = ' ';
  for (const int64_t size : tensor.sizes_default()) {
    (layout += before) += std::to_string(size);
    before = 'x';
  }
  return layout;
}

uint32_t layout_id(const HookScope& scope, const c10::TensorImpl& tensor) {
  struct Known {
    const Recording* recording = nullptr;
    caffe2::TypeMeta dtype;
    std::vector<int64_t> sizes;
    uint32_t id = 0;
  };
  // Some of the last ones; the next tensor is often laid out alike. Under the GIL. Never freed:
  // threads may end after static destructors.
  static auto* const known = new std::array<Known, 16>;
  static size_t last = 0;
  for (size_t i = 0; i < known->size(); ++i)
    if (const Known& each = (*known)[(last + i) % known->size()];
        each.id != 0 && each.recording == &scope.recording() && each.dtype == tensor.dtype() &&
        tensor.sizes_default() == each.sizes) {
      last = (last + i) % known->size();
      return each.id;
    }
  const uint32_t id = intern(scope, layout_of(tensor));
  Known& oldest = (*known)[last = (last + known->size() - 1) % known->size()];
  oldest = {&scope.recording(), tensor.dtype(), tensor.sizes_default().vec(), id};
  return id;
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

void write_tensor(const HookScope& scope, const c10::TensorImpl& tensor, uint32_t name,
                  uint32_t kind) {
  const StorageFacts storage = storage_facts(tensor);
  if (storage.address == 0 || storage.size_bytes == 0)
    return;
  TensorRecord record{};
  record.address = storage.address;
  record.size_bytes = storage.size_bytes;
  record.offset_bytes = storage.offset_bytes;
  record.name = name;
  record.kind = kind;
  record.layout = layout_id(scope, tensor);
  record.tail = {0, 0, storage.device, Action::tensor};
  write_record(scope, record);
  flush_full_window(scope);
}

} // namespace memtrace
