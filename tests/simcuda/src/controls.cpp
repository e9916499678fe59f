// What tests call, through ctypes: see ../__init__.py.
#include "device_memory.h"
#include "streams.h"

using namespace simcuda;

// Mirrored by Counters in ../__init__.py, in the same order.
struct SimcudaCounters {
  uint64_t capacity_bytes;
  uint64_t used_bytes;
  uint64_t allocated_bytes;
  uint64_t context_bytes;
  uint64_t foreign_bytes;
  uint64_t mallocs;
  uint64_t frees;
  uint64_t launches; // of all devices
};

// 0, or -1 if the simulated machine is already in use.
SIMCUDA_EXPORT int simcuda_configure(int devices, uint64_t memory_bytes, uint64_t context_bytes,
                                     int compute_capability, unsigned allocation_us) {
  Config wanted{devices, memory_bytes, context_bytes, compute_capability, allocation_us};
  return configure(wanted) ? 0 : -1;
}

// From now on the stream's work doesn't complete, until it is released or someone waits for it.
SIMCUDA_EXPORT void simcuda_hold_stream(cudaStream_t stream) {
  hold_stream(stream);
}

SIMCUDA_EXPORT void simcuda_release_stream(cudaStream_t stream) {
  release_stream(stream);
}

// Below what is in use already, the device is simply full.
SIMCUDA_EXPORT int simcuda_set_capacity(int device, uint64_t bytes) {
  if (!is_device(device))
    return -1;
  Guard guard(state_lock());
  ledger_locked(device).capacity_bytes = bytes;
  return 0;
}

// Another process, that NVML shows too, holds this much.
SIMCUDA_EXPORT int simcuda_set_foreign(int device, uint64_t bytes) {
  if (!is_device(device))
    return -1;
  Guard guard(state_lock());
  ledger_locked(device).foreign_bytes = bytes;
  return 0;
}

SIMCUDA_EXPORT int simcuda_read_counters(int device, SimcudaCounters* out) {
  if (!is_device(device))
    return -1;
  Guard guard(state_lock());
  const Ledger& ledger = ledger_locked(device);
  *out = {ledger.capacity_bytes, ledger.used_bytes(), ledger.allocated_bytes, ledger.context_bytes,
          ledger.foreign_bytes,  ledger.mallocs,      ledger.frees,           launch_count};
  return 0;
}
