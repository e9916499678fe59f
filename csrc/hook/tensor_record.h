// "The storage at this address is that": what a tensor's record tells of it.
#pragma once

#include "hook/notes.h"

#include <string>

namespace c10 {
struct TensorImpl;
}

namespace memtrace {

// Asks only for what lies in the tensor itself: a subclass's own idea of sizes or device may be
// Python code.
struct StorageFacts {
  // Address 0: no memory that is recorded (it is empty, or on another kind of device).
  uint64_t address = 0, size_bytes = 0;
  uint64_t offset_bytes = 0; // of the tensor in it
  DeviceCode device = kCpu;
};
StorageFacts storage_facts(const c10::TensorImpl& tensor) noexcept;

// Its dtype, by torch's own name, and its shape: "float32 2x8x64", "float32".
std::string layout_of(const c10::TensorImpl& tensor);

// Writes records of tensors, each of which must live as long as the writer: the next one is often
// laid out alike.
class TensorWriter {
 public:
  explicit TensorWriter(const HookScope& scope) : scope_(scope) {}
  // Nothing is written of a tensor without memory. `name` and `kind`: text ids.
  void write(const c10::TensorImpl& tensor, uint32_t name, uint32_t kind);

 private:
  uint32_t layout(const c10::TensorImpl& tensor);

  const HookScope& scope_;
  const c10::TensorImpl* last_ = nullptr;
  uint32_t last_layout_ = 0;
};

} // namespace memtrace
