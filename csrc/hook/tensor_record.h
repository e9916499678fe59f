// "The storage at this address is that": what a tensor's record tells of it.
#pragma once

#include "hook/notes.h"

#include <string>

namespace c10 {
struct TensorImpl;
}

namespace memtrace {

struct TensorFacts {
  // Of its storage. Address 0: it has no memory that is recorded (it is empty, or on another kind
  // of device).
  uint64_t address = 0, size_bytes = 0;
  uint64_t offset_bytes = 0; // of the tensor in it
  std::string layout;        // dtype, by torch's own name, and shape: "float32 2x8x64", "float32"
  DeviceCode device = kCpu;
};

// Asks only for what lies in the tensor itself: a subclass's own idea of sizes or device may be
// Python code.
TensorFacts facts_of(const c10::TensorImpl& tensor);

// Nothing is written of a tensor without memory. `name` and `kind`: text ids.
void write_tensor(const HookScope& scope, const TensorFacts& tensor, uint32_t name,
                  uint32_t kind) noexcept;

} // namespace memtrace
