// "The storage at this address is that": records of tensors, written by the hook itself.
#pragma once

#include "hook/thread_state.h"
#include "record/clock.h"

#include <ATen/ATen.h>

#include <string>
#include <string_view>

namespace memtrace {

enum class TensorKind : uint8_t { gradient, optimizer_state };

// For the length of one look, under the GIL: the thread is inside a hook meanwhile, so nothing that
// the look does is recorded. False: nothing records, or the thread is in a hook already.
class TensorRecords {
 public:
  explicit operator bool() const noexcept { return static_cast<bool>(scope_); }

  uint32_t intern(std::string_view text) noexcept {
    const RecorderApi& api = scope_.recording().api;
    return api.intern(api.recorder, text.data(), text.size());
  }

  // Nothing is written of memory that is not recorded: on another kind of device, or none at all.
  void write(const at::Tensor& tensor, uint32_t name, TensorKind kind) {
    // Asks only for what lies in the tensor: a subclass's own idea of it may be Python code.
    const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
    const c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
    const c10::Device device = storage.device();
    if (impl.has_symbolic_sizes_strides() || storage.sym_nbytes().is_heap_allocated() ||
        !(device.is_cpu() || device.is_cuda()) || !storage.data())
      return;
    const uint32_t kind_name =
        intern(kind == TensorKind::gradient ? "gradient" : "optimizer_state");
    const uint32_t layout = intern(layout_of(impl));
    ThreadState& state = scope_.state();
    Record* record = state.log->reserve();
    if (!record)
      return scope_.recording().lose(Loss::record_no_space);
    TensorRecord& said = record->tensor;
    said.ticks = ticks_after();
    said.address = reinterpret_cast<uintptr_t>(storage.data());
    said.size_bytes = storage.nbytes();
    said.offset_bytes = impl.is_python_dispatch()
                            ? 0
                            : static_cast<uint64_t>(impl.storage_offset()) * impl.itemsize();
    said.name = name;
    said.kind = kind_name;
    said.layout = layout;
    state.log->publish(
        {state.thread, 0, device.is_cpu() ? kCpu : cuda_device(device.index()), Action::tensor});
    if (state.log->flush_pending)
      scope_.recording().api.flush(scope_.recording().api.recorder, state.log);
  }

 private:
  // "float32 2x8x64"; of a scalar "float32".
  static std::string layout_of(const c10::TensorImpl& impl) {
    std::string text(c10::getDtypeNames(c10::typeMetaToScalarType(impl.dtype())).first);
    char between = ' ';
    for (const int64_t size : impl.sizes_default()) {
      text += between;
      text += std::to_string(size);
      between = 'x';
    }
    return text;
  }

  HookScope scope_;
};

} // namespace memtrace
