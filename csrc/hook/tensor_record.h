// "The storage at this address is that": what a tensor's record tells of it.
#pragma once

#include "hook/notes.h"

#include <cstdint>

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

// Writes the record of a tensor; nothing of one without memory. `name` and `kind`: text ids.
// `ticks`: when it was seen. Under the GIL.
void write_tensor(const HookScope& scope, const c10::TensorImpl& tensor, uint32_t name,
                  uint32_t kind, uint64_t ticks = ticks_after());

} // namespace memtrace
