#include "hook/tensor_record.h"

#include <algorithm>
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

// The text ids of layouts, each at a place of its own by what it is: the next tensor is often laid
// out as one of the last ones. Under the GIL. Never freed: threads may end after static
// destructors.
class LayoutIds {
 public:
  uint32_t of(const HookScope& scope, const c10::TensorImpl& tensor) {
    const c10::IntArrayRef sizes = tensor.sizes_default();
    if (sizes.size() > kMostSizes)
      return intern(scope, layout_of(tensor));
    const caffe2::TypeMeta dtype = tensor.dtype();
    uint64_t hash = static_cast<uint64_t>(c10::typeMetaToScalarType(dtype)) * kOddMultiplier;
    for (const int64_t size : sizes)
      hash = (hash ^ static_cast<uint64_t>(size)) * kOddMultiplier;
    Known& known = known_[hash >> (64 - kPlaceBits)];
    if (known.recording != &scope.recording() || known.dtype != dtype ||
        known.dimensions != sizes.size() ||
        !std::equal(sizes.begin(), sizes.end(), known.sizes.begin())) [[unlikely]] {
      known = {&scope.recording(), dtype, static_cast<uint32_t>(sizes.size()),
               intern(scope, layout_of(tensor))};
      std::ranges::copy(sizes, known.sizes.begin());
    }
    return known.id;
  }

 private:
  static constexpr size_t kMostSizes = 5, kPlaceBits = 6;
  static constexpr uint64_t kOddMultiplier = 0x9E3779B97F4A7C15; // 2^64 divided by the golden ratio
  struct Known {
    const Recording* recording = nullptr;
    caffe2::TypeMeta dtype;
    uint32_t dimensions = 0;
    uint32_t id = 0;
    std::array<int64_t, kMostSizes> sizes{};
  };
  std::array<Known, size_t{1} << kPlaceBits> known_;
};

uint32_t layout_id(const HookScope& scope, const c10::TensorImpl& tensor) {
  static auto* const ids = new LayoutIds;
  return ids->of(scope, tensor);
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
                  uint32_t kind, uint64_t ticks) {
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
  write_record(scope, record, ticks);
  flush_full_window(scope);
}

} // namespace memtrace
