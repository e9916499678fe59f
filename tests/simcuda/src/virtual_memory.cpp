// The driver's virtual memory management, on which expandable segments stand: reserve addresses,
// create physical memory, map the one to the other. Physical memory is charged when it is created
// and given back when neither a handle nor a mapping refers to it any more.
#include "address_space.h"
#include "device_memory.h"

#include <map>

namespace simcuda {
namespace {

struct PhysicalMemory {
  size_t bytes;
  int device;
  int references; // the handle's own, and one for each mapping
};

struct Mapping {
  size_t bytes;
  CUmemGenericAllocationHandle handle;
};

struct VirtualMemory {
  // Handles are numbers that are never used twice, so a stale one is found out.
  std::map<CUmemGenericAllocationHandle, PhysicalMemory> physical;
  std::map<uintptr_t, Mapping> mappings;
  CUmemGenericAllocationHandle next_handle = 1;
};

VirtualMemory& virtual_memory() {
  static VirtualMemory* state = new VirtualMemory;
  return *state;
}

void drop_reference_locked(CUmemGenericAllocationHandle handle) {
  auto found = virtual_memory().physical.find(handle);
  if (--found->second.references > 0)
    return;
  discharge_locked(found->second.device, found->second.bytes);
  virtual_memory().physical.erase(found);
}

} // namespace

std::optional<Allocation> find_mapping_locked(uintptr_t address) {
  VirtualMemory& state = virtual_memory();
  auto next = state.mappings.upper_bound(address);
  if (next == state.mappings.begin())
    return std::nullopt;
  const auto& [start, mapping] = *std::prev(next);
  if (address >= start + mapping.bytes)
    return std::nullopt;
  int device = state.physical.at(mapping.handle).device;
  return Allocation{start, mapping.bytes, device, MemoryKind::Mapped};
}

} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*,
                                                      CUmemAllocationGranularity_flags) {
  *bytes = kPageBytes;
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr,
                                            unsigned long long) {
  if (bytes == 0 || bytes % kPageBytes)
    return CUDA_ERROR_INVALID_VALUE;
  Guard guard(state_lock());
  // The call names no device; torch reserves for the current one.
  *address = reserve_addresses_locked(current_device(), bytes);
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

SIMCUDA_EXPORT CUresult cuMemAddressFree(CUdeviceptr address, size_t) {
  Guard guard(state_lock());
  release_addresses_locked(address);
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes,
                                    const CUmemAllocationProp* properties, unsigned long long) {
  if (bytes == 0 || bytes % kPageBytes)
    return CUDA_ERROR_INVALID_VALUE;
  spend_allocation_time();
  Guard guard(state_lock());
  int device = properties->location.id;
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  if (use_device_locked(device) != cudaSuccess)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (!charge_locked(device, bytes))
    return CUDA_ERROR_OUT_OF_MEMORY;
  VirtualMemory& state = virtual_memory();
  *handle = state.next_handle++;
  state.physical[*handle] = {bytes, device, 1};
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  Guard guard(state_lock());
  if (!virtual_memory().physical.contains(handle))
    return CUDA_ERROR_INVALID_VALUE;
  drop_reference_locked(handle);
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t,
                                 CUmemGenericAllocationHandle handle, unsigned long long) {
  Guard guard(state_lock());
  VirtualMemory& state = virtual_memory();
  auto found = state.physical.find(handle);
  if (found == state.physical.end() || bytes > found->second.bytes)
    return CUDA_ERROR_INVALID_VALUE;
  if (find_mapping_locked(address))
    return CUDA_ERROR_INVALID_VALUE;
  ++found->second.references;
  state.mappings[address] = {bytes, handle};
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc*,
                                       size_t) {
  return back_with_memory(address, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SIMCUDA_EXPORT CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  Guard guard(state_lock());
  auto& mappings = virtual_memory().mappings;
  auto mapping = mappings.lower_bound(address);
  if (mapping == mappings.end() || mapping->first >= address + bytes)
    return CUDA_ERROR_INVALID_VALUE;
  while (mapping != mappings.end() && mapping->first < address + bytes) {
    drop_reference_locked(mapping->second.handle);
    mapping = mappings.erase(mapping);
  }
  take_memory_away(address, bytes);
  return CUDA_SUCCESS;
}
