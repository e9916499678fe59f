// Stream-ordered memory (cudaMallocAsync), which torch uses with backend:cudaMallocAsync. Each
// device has its default pool; a free gives the memory back at once, nothing is kept in the pool.
#include "device_memory.h"

#include <algorithm>
#include <array>

namespace simcuda {
namespace {

struct MemoryPool {
  uint64_t release_threshold = 0;
  uint64_t used_bytes = 0;
  uint64_t used_high_bytes = 0;
};

std::array<MemoryPool, kMaxDevices>& pools() {
  static auto* pools = new std::array<MemoryPool, kMaxDevices>;
  return *pools;
}

MemoryPool& pool_of(cudaMemPool_t handle) {
  return *reinterpret_cast<MemoryPool*>(handle);
}

} // namespace
} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  if (!is_device(device))
    return report(cudaErrorInvalidDevice);
  *pool = reinterpret_cast<cudaMemPool_t>(&pools()[device]);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t) {
  cudaError_t error = allocate(address, bytes, MemoryKind::StreamOrdered);
  if (error != cudaSuccess)
    return report(error);
  Guard guard(state_lock());
  MemoryPool& pool = pools()[current_device()];
  pool.used_bytes += bytes;
  pool.used_high_bytes = std::max(pool.used_high_bytes, pool.used_bytes);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaFreeAsync(void* address, cudaStream_t) {
  spend_allocation_time();
  std::optional<Allocation> freed;
  cudaError_t error = release(address, &freed);
  if (freed) {
    Guard guard(state_lock());
    pools()[freed->device].used_bytes -= freed->bytes;
  }
  return report(error);
}

SIMCUDA_EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute,
                                                   void* value) {
  Guard guard(state_lock());
  MemoryPool& pool = pool_of(handle);
  if (attribute == cudaMemPoolAttrReleaseThreshold)
    pool.release_threshold = *static_cast<uint64_t*>(value);
  else if (attribute == cudaMemPoolAttrUsedMemHigh || attribute == cudaMemPoolAttrReservedMemHigh)
    pool.used_high_bytes = pool.used_bytes; // writing a high-water mark resets it
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute,
                                                   void* value) {
  Guard guard(state_lock());
  const MemoryPool& pool = pool_of(handle);
  uint64_t result = 0;
  switch (attribute) {
  case cudaMemPoolAttrReleaseThreshold:
    result = pool.release_threshold;
    break;
  case cudaMemPoolAttrUsedMemCurrent:
  case cudaMemPoolAttrReservedMemCurrent:
    result = pool.used_bytes;
    break;
  case cudaMemPoolAttrUsedMemHigh:
  case cudaMemPoolAttrReservedMemHigh:
    result = pool.used_high_bytes;
    break;
  default:
    break;
  }
  *static_cast<uint64_t*>(value) = result;
  return cudaSuccess;
}
