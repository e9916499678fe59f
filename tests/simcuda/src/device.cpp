// What a device says about itself: an A100-like machine whose memory and compute capability come
// from the configuration.
#include "device_memory.h"

#include <cstdio>
#include <cstring>

namespace simcuda {
namespace {

constexpr int kMultiprocessors = 108;
constexpr int kThreadsPerBlock = 1024;
constexpr int kThreadsPerMultiprocessor = 2048;
constexpr int kRegisters = 65536;
constexpr int kSharedBytesPerBlock = 49152;
constexpr int kSharedBytesPerBlockOptin = 166912;
constexpr int kSharedBytesPerMultiprocessor = 167936;
constexpr int kClockKhz = 1400000;
constexpr int kMemoryBusBits = 5120;
constexpr int kMaxGridX = 0x7fffffff;
constexpr int kMaxGridYz = 65535;

} // namespace
} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaGetDeviceCount(int* count) {
  *count = config().devices;
  return *count ? cudaSuccess : report(cudaErrorNoDevice);
}

SIMCUDA_EXPORT cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaSetDevice(int device) {
  // Since CUDA 12 this creates the device's context.
  if (cudaError_t error = use_device(device); error != cudaSuccess)
    return report(error);
  select_device(device);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (!is_device(device))
    return report(cudaErrorInvalidDevice);
  *p = {};
  snprintf(p->name, sizeof p->name, "Simulated GPU %d", device);
  memcpy(p->uuid.bytes, "simcuda-device-", 15);
  p->uuid.bytes[15] = static_cast<char>(device);
  {
    Guard guard(state_lock());
    p->totalGlobalMem = ledger_locked(device).capacity_bytes;
  }
  p->major = config().compute_capability / 10;
  p->minor = config().compute_capability % 10;
  p->pciBusID = device + 1;
  p->multiProcessorCount = kMultiprocessors;
  p->warpSize = 32;
  p->maxThreadsPerBlock = kThreadsPerBlock;
  p->maxThreadsPerMultiProcessor = kThreadsPerMultiprocessor;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = kMaxGridX;
  p->maxGridSize[1] = p->maxGridSize[2] = kMaxGridYz;
  p->regsPerBlock = p->regsPerMultiprocessor = kRegisters;
  p->sharedMemPerBlock = kSharedBytesPerBlock;
  p->sharedMemPerBlockOptin = kSharedBytesPerBlockOptin;
  p->sharedMemPerMultiprocessor = kSharedBytesPerMultiprocessor;
  p->reservedSharedMemPerBlock = 1024;
  p->totalConstMem = 65536;
  p->l2CacheSize = 40 << 20;
  p->memoryBusWidth = kMemoryBusBits;
  p->textureAlignment = 512;
  p->asyncEngineCount = 3;
  p->concurrentKernels = p->canMapHostMemory = p->unifiedAddressing = p->managedMemory = 1;
  p->memoryPoolsSupported = p->streamPrioritiesSupported = 1;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                                  int device) {
  if (!is_device(device))
    return report(cudaErrorInvalidDevice);
  switch (attribute) {
  case cudaDevAttrComputeCapabilityMajor:
    *value = config().compute_capability / 10;
    break;
  case cudaDevAttrComputeCapabilityMinor:
    *value = config().compute_capability % 10;
    break;
  case cudaDevAttrMultiProcessorCount:
    *value = kMultiprocessors;
    break;
  case cudaDevAttrWarpSize:
    *value = 32;
    break;
  case cudaDevAttrMaxThreadsPerBlock:
    *value = kThreadsPerBlock;
    break;
  case cudaDevAttrMaxThreadsPerMultiProcessor:
    *value = kThreadsPerMultiprocessor;
    break;
  case cudaDevAttrMaxRegistersPerBlock:
  case cudaDevAttrMaxRegistersPerMultiprocessor:
    *value = kRegisters;
    break;
  case cudaDevAttrMaxSharedMemoryPerBlock:
    *value = kSharedBytesPerBlock;
    break;
  case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    *value = kSharedBytesPerBlockOptin;
    break;
  case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
    *value = kSharedBytesPerMultiprocessor;
    break;
  case cudaDevAttrClockRate:
  case cudaDevAttrMemoryClockRate:
    *value = kClockKhz;
    break;
  case cudaDevAttrGlobalMemoryBusWidth:
    *value = kMemoryBusBits;
    break;
  case cudaDevAttrMaxGridDimX:
    *value = kMaxGridX;
    break;
  case cudaDevAttrMaxGridDimY:
  case cudaDevAttrMaxGridDimZ:
    *value = kMaxGridYz;
    break;
  case cudaDevAttrUnifiedAddressing:
  case cudaDevAttrMemoryPoolsSupported:
    *value = 1;
    break;
  default:
    *value = 0;
  }
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int device) {
  if (!is_device(device))
    return report(cudaErrorInvalidDevice);
  snprintf(text, bytes, "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  *can = device != peer;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaProfilerStart() {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaProfilerStop() {
  return cudaSuccess;
}
