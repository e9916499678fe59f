// The driver API beyond memory and kernels: initialisation, devices, contexts, entry points. A
// context is identified with its device; there are only primary contexts.
#include "device_memory.h"
#include "streams.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <string>

namespace simcuda {
namespace {

CUcontext context_of(int device) {
  return reinterpret_cast<CUcontext>(static_cast<uintptr_t>(device + 1) * 16);
}

int device_of(CUcontext context) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(context) / 16) - 1;
}

CUresult to_driver(cudaError_t error) {
  // The two enumerations agree on the numbers used here.
  return static_cast<CUresult>(error);
}

// What a caller gets for a driver function that the simulation lacks.
CUresult not_supported() {
  return CUDA_ERROR_NOT_SUPPORTED;
}

// Looks a driver function up among this library's own, so that a real libcuda is never found.
void* find_entry_point(const char* name) {
  static void* self = [] {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(&not_supported), &info);
    return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }();
  // Callers ask for the name in the manual; the library has the name of its current version.
  for (const char* version : {"_v2", "_v4", ""})
    if (void* found = dlsym(self, (std::string(name) + version).c_str()))
      return found;
  return nullptr;
}

} // namespace
} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT CUresult cuInit(unsigned) {
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuGetErrorName(CUresult error, const char** text) {
  *text = cudaGetErrorName(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = cudaGetErrorString(static_cast<cudaError_t>(error));
  return CUDA_SUCCESS;
}

// ---- devices

SIMCUDA_EXPORT CUresult cuDeviceGetCount(int* count) {
  *count = config().devices;
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return is_device(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

SIMCUDA_EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute,
                                             CUdevice device) {
  // The runtime's and the driver's enumerations of attributes share their numbers.
  return to_driver(cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), device));
}

SIMCUDA_EXPORT CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  snprintf(name, bytes, "Simulated GPU %d", device);
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error == cudaSuccess)
    *uuid = properties.uuid;
  return to_driver(error);
}

SIMCUDA_EXPORT CUresult cuDeviceTotalMem(size_t* bytes, CUdevice device) {
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  Guard guard(state_lock());
  *bytes = ledger_locked(device).capacity_bytes;
  return CUDA_SUCCESS;
}

// ---- contexts

SIMCUDA_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  if (!is_device(device))
    return CUDA_ERROR_INVALID_DEVICE;
  Guard guard(state_lock());
  *flags = 0;
  *active = has_context_locked(device);
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = context_of(device);
  return to_driver(use_device(device));
}

SIMCUDA_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice) {
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  Guard guard(state_lock());
  *context = has_context_locked(current_device()) ? context_of(current_device()) : nullptr;
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  if (!context)
    return CUDA_SUCCESS;
  if (!is_device(device_of(context)))
    return CUDA_ERROR_INVALID_CONTEXT;
  select_device(device_of(context));
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
  *device = current_device();
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuCtxSynchronize() {
  return to_driver(cudaDeviceSynchronize());
}

SIMCUDA_EXPORT CUresult cuCtxGetLimit(size_t* value, CUlimit) {
  *value = 0;
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuCtxSetLimit(CUlimit, size_t) {
  return CUDA_SUCCESS;
}

// ---- memory, for callers that skip the runtime

SIMCUDA_EXPORT CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  return to_driver(cudaMalloc(reinterpret_cast<void**>(address), bytes));
}

SIMCUDA_EXPORT CUresult cuMemFree(CUdeviceptr address) {
  return to_driver(cudaFree(reinterpret_cast<void*>(address)));
}

SIMCUDA_EXPORT CUresult cuMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return to_driver(cudaMemGetInfo(free_bytes, total_bytes));
}

SIMCUDA_EXPORT CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes,
                                             CUdeviceptr address) {
  auto allocation = find_allocation(reinterpret_cast<void*>(address));
  if (!allocation)
    return CUDA_ERROR_NOT_FOUND;
  if (base)
    *base = allocation->address;
  if (bytes)
    *bytes = allocation->bytes;
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute,
                                              CUdeviceptr address) {
  auto allocation = find_allocation(reinterpret_cast<void*>(address));
  if (!allocation)
    return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
  case CU_POINTER_ATTRIBUTE_CONTEXT:
    *static_cast<CUcontext*>(value) = context_of(allocation->device);
    return CUDA_SUCCESS;
  case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    *static_cast<int*>(value) = allocation->device;
    return CUDA_SUCCESS;
  case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    *static_cast<CUdeviceptr*>(value) = allocation->address;
    return CUDA_SUCCESS;
  case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    *static_cast<size_t*>(value) = allocation->bytes;
    return CUDA_SUCCESS;
  default:
    return CUDA_ERROR_NOT_SUPPORTED;
  }
}

// ---- entry points: torch loads the driver through these

SIMCUDA_EXPORT cudaError_t
cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                 cudaDriverEntryPointQueryResult* result) {
  // torch insists on finding every function of its list, used or not.
  *function = find_entry_point(name);
  if (!*function)
    *function = reinterpret_cast<void*>(&not_supported);
  if (result)
    *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

SIMCUDA_EXPORT CUresult cuGetProcAddress(const char* name, void** function, int, cuuint64_t,
                                         CUdriverProcAddressQueryResult* result) {
  *function = find_entry_point(name);
  if (result)
    *result = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
