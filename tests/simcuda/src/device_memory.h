// Who holds what of each device's memory. The runtime, the driver API and NVML all answer from this
// ledger, so they can't disagree.
#pragma once

#include "runtime.h"

#include <map>
#include <optional>

namespace simcuda {

// One device. Bytes are whole pages; used = allocated + context + foreign.
struct Ledger {
  size_t capacity_bytes = 0;
  size_t allocated_bytes = 0; // cudaMalloc, cudaMallocAsync, cuMemCreate of this process
  size_t context_bytes = 0;   // of this process: 0 until its context is created
  size_t foreign_bytes = 0;   // a made-up other process, see simcuda_set_foreign
  uint64_t mallocs = 0;
  uint64_t frees = 0;

  size_t used_bytes() const { return allocated_bytes + context_bytes + foreign_bytes; }
  size_t free_bytes() const {
    return used_bytes() < capacity_bytes ? capacity_bytes - used_bytes() : 0;
  }
};

Ledger& ledger_locked(int device);

// The process that the contexts belong to (a forked child has none), 0 while there are none.
int context_owner_locked();

// Creates the device's context if there is none yet, as any call that touches the device does.
cudaError_t use_device(int device);
cudaError_t use_device_locked(int device);
bool has_context_locked(int device);

// Take and give back physical memory. `charge_locked` is false when the device is full.
bool charge_locked(int device, size_t bytes);
void discharge_locked(int device, size_t bytes);

enum class MemoryKind { Device, PinnedHost, StreamOrdered, Mapped };

struct Allocation {
  uintptr_t address = 0;
  size_t bytes = 0; // as asked for
  int device = 0;
  MemoryKind kind = MemoryKind::Device;
};

cudaError_t allocate(void** address, size_t bytes, MemoryKind kind);

// The allocation that was freed through `freed`, if the caller wants to know.
cudaError_t release(void* address, std::optional<Allocation>* freed = nullptr);

// The allocation that holds this address, mapped physical memory included.
std::optional<Allocation> find_allocation(const void* address);

// Defined by virtual_memory.cpp: the same for memory mapped through cuMemMap.
std::optional<Allocation> find_mapping_locked(uintptr_t address);

} // namespace simcuda
