// Kernels: registered, launched, counted, never run.
#include "device_memory.h"
#include "streams.h"

namespace simcuda {
namespace {

cudaError_t launch(cudaStream_t handle) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  if (cudaError_t error = use_device_locked(stream->device); error != cudaSuccess)
    return report(error);
  if (!stream->capture)
    ++launch_count;
  submit_locked(*stream);
  return cudaSuccess;
}

CUresult launch_by_driver(CUstream stream) {
  return launch(stream) == cudaSuccess ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

struct CallConfiguration {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  cudaStream_t stream;
};

thread_local CallConfiguration call_configuration;

constexpr int kThreadsPerBlock = 1024;
constexpr int kThreadsPerMultiprocessor = 2048;
constexpr int kRegistersPerThread = 32;
constexpr int kDynamicSharedBytes = 49152;

int blocks_per_multiprocessor(int block_size) {
  return block_size > 0 ? kThreadsPerMultiprocessor / block_size : 1;
}

// One made-up handle serves every module, library and function that is loaded by name.
template <typename Handle> Handle any_handle() {
  return reinterpret_cast<Handle>(uintptr_t{0x10});
}

} // namespace
} // namespace simcuda

using namespace simcuda;

// ---- launches

SIMCUDA_EXPORT cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t,
                                            cudaStream_t stream) {
  return launch(stream);
}

SIMCUDA_EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* launch_config, const void*,
                                               void**) {
  return launch(launch_config->stream);
}

SIMCUDA_EXPORT cudaError_t cudaLaunchCooperativeKernel(const void*, dim3, dim3, void**, size_t,
                                                       cudaStream_t stream) {
  return launch(stream);
}

SIMCUDA_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t,
                                              cudaStream_t stream) {
  return launch(stream);
}

SIMCUDA_EXPORT CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned,
                                       unsigned, unsigned, CUstream stream, void**, void**) {
  return launch_by_driver(stream);
}

SIMCUDA_EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig* launch_config, CUfunction, void**,
                                         void**) {
  return launch_by_driver(launch_config->hStream);
}

SIMCUDA_EXPORT CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned,
                                                  unsigned, unsigned, unsigned, unsigned,
                                                  CUstream stream, void**) {
  return launch_by_driver(stream);
}

// A stub of a library that computes (cuBLAS) calls this in place of computing.
extern "C" int simcuda_library_call() {
  ++launch_count;
  return 0;
}

// ---- what nvcc's generated code calls

SIMCUDA_EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                                    cudaStream_t stream) {
  call_configuration = {grid, block, shared_bytes, stream};
  return 0;
}

SIMCUDA_EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                                      void* stream) {
  *grid = call_configuration.grid;
  *block = call_configuration.block;
  *shared_bytes = call_configuration.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = call_configuration.stream;
  return cudaSuccess;
}

SIMCUDA_EXPORT void** __cudaRegisterFatBinary(void*) {
  static void* handle[1];
  return handle;
}

SIMCUDA_EXPORT void __cudaRegisterFatBinaryEnd(void**) {}

SIMCUDA_EXPORT void __cudaUnregisterFatBinary(void**) {}

SIMCUDA_EXPORT void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*,
                                           void*, void*, void*, int*) {}

SIMCUDA_EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

SIMCUDA_EXPORT void __cudaRegisterManagedVar(void**, void**, char*, const char*, int, size_t, int,
                                             int) {}

SIMCUDA_EXPORT char __cudaInitModule(void**) {
  return 1;
}

SIMCUDA_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

// ---- questions about kernels

SIMCUDA_EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = kThreadsPerBlock;
  attributes->numRegs = kRegistersPerThread;
  attributes->ptxVersion = attributes->binaryVersion = config().compute_capability;
  attributes->maxDynamicSharedSizeBytes = kDynamicSharedBytes;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void*, int block_size, size_t, unsigned) {
  *blocks = blocks_per_multiprocessor(block_size);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*,
                                                                         int block_size, size_t) {
  *blocks = blocks_per_multiprocessor(block_size);
  return cudaSuccess;
}

SIMCUDA_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction,
                                                                    int block_size, size_t) {
  *blocks = blocks_per_multiprocessor(block_size);
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_NUM_REGS:
    *value = kRegistersPerThread;
    break;
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    *value = kThreadsPerBlock;
    break;
  default:
    *value = 0;
  }
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) {
  return CUDA_SUCCESS;
}

// ---- kernels loaded at run time (Triton, jiterator)

SIMCUDA_EXPORT CUresult cuModuleLoadData(CUmodule* module, const void*) {
  *module = any_handle<CUmodule>();
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void*, unsigned, CUjit_option*,
                                           void**) {
  *module = any_handle<CUmodule>();
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuModuleLoad(CUmodule* module, const char*) {
  *module = any_handle<CUmodule>();
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuModuleUnload(CUmodule) {
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char*) {
  *function = any_handle<CUfunction>();
  return CUDA_SUCCESS;
}

SIMCUDA_EXPORT cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void*, cudaJitOption*,
                                               void**, unsigned, cudaLibraryOption*, void**,
                                               unsigned) {
  *library = any_handle<cudaLibrary_t>();
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t, const char*) {
  *kernel = any_handle<cudaKernel_t>();
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaLibraryUnload(cudaLibrary_t) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int,
                                                           int) {
  return cudaSuccess;
}
