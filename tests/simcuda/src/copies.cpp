// Copies and fills are done for real, at once, since device memory is host memory. Kernels aren't,
// so what is copied back has the right size and meaningless values.
#include "address_space.h"
#include "device_memory.h"
#include "streams.h"

#include <sys/mman.h>

#include <cstring>
#include <map>

namespace simcuda {
namespace {

// The work is submitted to the stream; false if a capture only notes it down.
bool submit(cudaStream_t handle) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return false;
  submit_locked(*stream);
  return !stream->capture;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  if (submit(stream))
    memmove(to, from, bytes);
  return cudaSuccess;
}

// Zeros cost no memory: whole pages are given back to the kernel, and read as zeros afterwards.
void fill(void* address, int value, size_t bytes) {
  constexpr size_t kWorthwhileBytes = size_t{1} << 16;
  constexpr uintptr_t kHostPage = 4096;
  if (value == 0 && bytes >= kWorthwhileBytes && find_allocation(address)) {
    auto start = reinterpret_cast<uintptr_t>(address);
    uintptr_t first = round_up(start, kHostPage);
    uintptr_t last = (start + bytes) / kHostPage * kHostPage;
    if (madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED) == 0) {
      memset(address, 0, first - start);
      memset(reinterpret_cast<void*>(last), 0, start + bytes - last);
      return;
    }
  }
  memset(address, value, bytes);
}

} // namespace
} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return copy(to, from, bytes, nullptr);
}

SIMCUDA_EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                           cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}

SIMCUDA_EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                               cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}

SIMCUDA_EXPORT cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from,
                                             size_t from_pitch, size_t width, size_t height,
                                             cudaMemcpyKind, cudaStream_t stream) {
  if (!submit(stream))
    return cudaSuccess;
  for (size_t row = 0; row < height; ++row)
    memmove(static_cast<char*>(to) + row * to_pitch,
            static_cast<const char*>(from) + row * from_pitch, width);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaMemset(void* address, int value, size_t bytes) {
  if (submit(nullptr))
    fill(address, value, bytes);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes,
                                           cudaStream_t stream) {
  if (submit(stream))
    fill(address, value, bytes);
  return cudaSuccess;
}

// Device variables exist only as addresses: nothing on the device will read them.
SIMCUDA_EXPORT cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t,
                                              cudaMemcpyKind) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  static auto* addresses = new std::map<const void*, uintptr_t>;
  Guard guard(state_lock());
  uintptr_t& found = (*addresses)[symbol];
  if (!found) {
    found = reserve_addresses_locked(kHostArena, kPageBytes);
    back_with_memory(found, kPageBytes);
  }
  *address = reinterpret_cast<void*>(found);
  return cudaSuccess;
}

SIMCUDA_EXPORT CUresult cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count,
                                         CUstream stream) {
  if (!submit(stream))
    return CUDA_SUCCESS;
  auto* words = reinterpret_cast<unsigned*>(address);
  for (size_t i = 0; i < count; ++i)
    words[i] = value;
  return CUDA_SUCCESS;
}
