#include "device_memory.h"

#include "address_space.h"
#include "graphs.h"
#include "other_processes.h"

#include <unistd.h>

#include <array>
#include <cstring>

namespace simcuda {
namespace {

struct DeviceMemory {
  std::array<Ledger, kMaxDevices> ledgers;
  std::array<bool, kMaxDevices> contexts{};
  std::map<uintptr_t, Allocation> allocations;
  int owner_pid = 0;

  DeviceMemory() {
    for (Ledger& ledger : ledgers)
      ledger.capacity_bytes = config().memory_bytes;
  }
};

DeviceMemory& memory() {
  static DeviceMemory* state = new DeviceMemory;
  return *state;
}

void publish_use_locked(int device) {
  const Ledger& ledger = memory().ledgers[device];
  publish_locked(device, ledger.context_bytes + ledger.allocated_bytes);
}

bool takes_device_memory(MemoryKind kind) {
  return kind != MemoryKind::PinnedHost;
}

} // namespace

Ledger& ledger_locked(int device) {
  return memory().ledgers[device];
}

int context_owner_locked() {
  return memory().owner_pid;
}

bool has_context_locked(int device) {
  return memory().contexts[device];
}

cudaError_t use_device_locked(int device) {
  if (!is_device(device))
    return cudaErrorInvalidDevice;
  DeviceMemory& state = memory();
  // CUDA doesn't survive fork: a child that inherits a context can't use it.
  if (state.owner_pid && state.owner_pid != getpid())
    return cudaErrorInitializationError;
  if (state.contexts[device])
    return cudaSuccess;
  Ledger& ledger = state.ledgers[device];
  size_t bytes = config().context_bytes;
  if (ledger.free_bytes() < bytes)
    return cudaErrorMemoryAllocation;
  ledger.context_bytes = bytes;
  state.contexts[device] = true;
  state.owner_pid = getpid();
  publish_use_locked(device);
  return cudaSuccess;
}

cudaError_t use_device(int device) {
  Guard guard(state_lock());
  return use_device_locked(device);
}

bool charge_locked(int device, size_t bytes) {
  Ledger& ledger = ledger_locked(device);
  bytes = round_up(bytes, kPageBytes);
  if (ledger.free_bytes() < bytes)
    return false;
  ledger.allocated_bytes += bytes;
  ++ledger.mallocs;
  publish_use_locked(device);
  return true;
}

void discharge_locked(int device, size_t bytes) {
  Ledger& ledger = ledger_locked(device);
  ledger.allocated_bytes -= round_up(bytes, kPageBytes);
  ++ledger.frees;
  publish_use_locked(device);
}

cudaError_t allocate(void** address, size_t bytes, MemoryKind kind) {
  *address = nullptr;
  if (takes_device_memory(kind))
    spend_allocation_time();
  Guard guard(state_lock());
  int device = current_device();
  if (cudaError_t error = use_device_locked(device); error != cudaSuccess)
    return error;
  if (bytes == 0)
    return cudaSuccess;
  if (takes_device_memory(kind) && !charge_locked(device, bytes))
    return cudaErrorMemoryAllocation;
  int arena = takes_device_memory(kind) ? device : kHostArena;
  uintptr_t at = reserve_addresses_locked(arena, bytes);
  if (!at || !back_with_memory(at, round_up(bytes, kPageBytes))) {
    if (at)
      release_addresses_locked(at);
    if (takes_device_memory(kind))
      discharge_locked(device, bytes);
    return cudaErrorMemoryAllocation;
  }
  memory().allocations[at] = {at, bytes, device, kind};
  *address = reinterpret_cast<void*>(at);
  return cudaSuccess;
}

cudaError_t release(void* address, std::optional<Allocation>* freed) {
  if (!address)
    return cudaSuccess;
  Guard guard(state_lock());
  DeviceMemory& state = memory();
  auto found = state.allocations.find(reinterpret_cast<uintptr_t>(address));
  if (found == state.allocations.end())
    return cudaErrorInvalidValue;
  Allocation allocation = found->second;
  state.allocations.erase(found);
  release_addresses_locked(allocation.address);
  if (takes_device_memory(allocation.kind))
    discharge_locked(allocation.device, allocation.bytes);
  if (freed)
    *freed = allocation;
  return cudaSuccess;
}

std::optional<Allocation> find_allocation(const void* address) {
  Guard guard(state_lock());
  const auto& allocations = memory().allocations;
  auto at = reinterpret_cast<uintptr_t>(address);
  auto next = allocations.upper_bound(at);
  if (next != allocations.begin()) {
    const Allocation& candidate = std::prev(next)->second;
    if (at < candidate.address + candidate.bytes)
      return candidate;
  }
  return find_mapping_locked(at);
}

} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaMalloc(void** address, size_t bytes) {
  if (cudaError_t error = refuse_in_capture(); error != cudaSuccess)
    return report(error);
  return report(allocate(address, bytes, MemoryKind::Device));
}

SIMCUDA_EXPORT cudaError_t cudaFree(void* address) {
  if (cudaError_t error = refuse_in_capture(); error != cudaSuccess)
    return report(error);
  // cudaFree(nullptr) is the customary way to create a context.
  if (!address)
    return report(use_device(current_device()));
  spend_allocation_time();
  return report(release(address));
}

SIMCUDA_EXPORT cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  Guard guard(state_lock());
  int device = current_device();
  if (cudaError_t error = use_device_locked(device); error != cudaSuccess)
    return report(error);
  *free_bytes = ledger_locked(device).free_bytes();
  *total_bytes = ledger_locked(device).capacity_bytes;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  return report(allocate(address, bytes, MemoryKind::PinnedHost));
}

SIMCUDA_EXPORT cudaError_t cudaMallocHost(void** address, size_t bytes) {
  return report(allocate(address, bytes, MemoryKind::PinnedHost));
}

SIMCUDA_EXPORT cudaError_t cudaFreeHost(void* address) {
  return report(release(address));
}

// Registered memory stays what it is: pageable memory of the program's own.
SIMCUDA_EXPORT cudaError_t cudaHostRegister(void*, size_t, unsigned) {
  return report(use_device(current_device()));
}

SIMCUDA_EXPORT cudaError_t cudaHostUnregister(void*) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes,
                                                    const void* address) {
  *attributes = {};
  void* pointer = const_cast<void*>(address);
  if (auto allocation = find_allocation(address)) {
    bool on_host = allocation->kind == MemoryKind::PinnedHost;
    attributes->type = on_host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->device = allocation->device;
    attributes->devicePointer = pointer;
    attributes->hostPointer = on_host ? pointer : nullptr;
  } else {
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->device = cudaInvalidDeviceId;
    attributes->hostPointer = pointer;
  }
  return cudaSuccess;
}

namespace {

// A handle works inside its own process only: there is no memory that two processes could share.
struct IpcHandle {
  int pid;
  void* address;
};
static_assert(sizeof(IpcHandle) <= sizeof(cudaIpcMemHandle_t));

} // namespace

SIMCUDA_EXPORT cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* address) {
  IpcHandle made{getpid(), address};
  *handle = {};
  memcpy(handle, &made, sizeof made);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaIpcOpenMemHandle(void** address, cudaIpcMemHandle_t handle,
                                                unsigned) {
  IpcHandle given;
  memcpy(&given, &handle, sizeof given);
  if (given.pid != getpid())
    return report(cudaErrorNotSupported);
  *address = given.address;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaIpcCloseMemHandle(void*) {
  return cudaSuccess;
}
