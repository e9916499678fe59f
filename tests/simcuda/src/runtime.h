// What every source file of the simulated CUDA runtime shares: the configuration, the one lock, the
// calling thread's device and last error.
//
// Everything here runs in the process under test. One lock guards all state: the simulation is made
// to be right and repeatable, not to scale. Names that end in `_locked` want that lock held.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#if CUDART_VERSION < 12000
#error "simcuda needs the headers of torch's CUDA (PyPI: nvidia-cuda-runtime, nvidia-cuda-crt)"
#endif

#define SIMCUDA_EXPORT extern "C" __attribute__((visibility("default")))

namespace simcuda {

constexpr int kMaxDevices = 16;

// The driver hands out physical memory in pages of 2 MiB. Smaller cudaMalloc calls share a page on
// a real GPU; that isn't modelled, since torch's allocator asks for multiples of 2 MiB only.
constexpr size_t kPageBytes = size_t{2} << 20;

constexpr size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

struct Config {
  int devices;
  size_t memory_bytes;    // capacity of each device
  size_t context_bytes;   // what a CUDA context takes of it, once per device in use
  int compute_capability; // 80 is 8.0
  unsigned allocation_us; // time that the driver takes for cudaMalloc, cudaFree, cuMemCreate
};

// Read from SIMCUDA_* at the first use, unless simcuda_configure came before.
const Config& config();

// False once a device has been used: a running program can't change the machine it runs on.
bool configure(const Config& wanted);

std::mutex& state_lock();
using Guard = std::lock_guard<std::mutex>;

bool is_device(int device);

// The calling thread's device, as cudaSetDevice left it.
int current_device();
void select_device(int device);

// Remembers `error` for cudaGetLastError of this thread, and returns it.
cudaError_t report(cudaError_t error);

// Sleeps for the configured duration of a driver allocation. Call without the lock.
void spend_allocation_time();

extern std::atomic<uint64_t> launch_count;

} // namespace simcuda
