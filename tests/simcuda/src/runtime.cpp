#include "runtime.h"

#include <unistd.h>

#include <cstdlib>

namespace simcuda {
namespace {

thread_local int thread_device = 0;
thread_local cudaError_t thread_error = cudaSuccess;

size_t from_environment(const char* name, size_t fallback) {
  const char* text = getenv(name);
  return text && *text ? strtoull(text, nullptr, 10) : fallback;
}

Config read_environment() {
  Config read{};
  read.devices = static_cast<int>(from_environment("SIMCUDA_DEVICES", 1));
  read.memory_bytes = from_environment("SIMCUDA_MEM_MB", 1024) << 20;
  read.context_bytes = from_environment("SIMCUDA_CONTEXT_MB", 300) << 20;
  read.compute_capability = static_cast<int>(from_environment("SIMCUDA_CC", 80));
  read.allocation_us = static_cast<unsigned>(from_environment("SIMCUDA_MALLOC_US", 0));
  if (read.devices < 0)
    read.devices = 0;
  if (read.devices > kMaxDevices)
    read.devices = kMaxDevices;
  return read;
}

struct ConfigState {
  Config value = read_environment();
  std::atomic<bool> in_use{false};
};

// Never destroyed, as all state of the simulation: torch frees memory in static destructors.
ConfigState& config_state() {
  static ConfigState* state = new ConfigState;
  return *state;
}

} // namespace

const Config& config() {
  ConfigState& state = config_state();
  state.in_use.store(true, std::memory_order_relaxed);
  return state.value;
}

bool configure(const Config& wanted) {
  ConfigState& state = config_state();
  if (state.in_use.load(std::memory_order_relaxed))
    return false;
  if (wanted.devices < 0 || wanted.devices > kMaxDevices)
    return false;
  state.value = wanted;
  return true;
}

std::mutex& state_lock() {
  static std::mutex* lock = new std::mutex;
  return *lock;
}

bool is_device(int device) {
  return device >= 0 && device < config().devices;
}

int current_device() {
  return thread_device;
}

void select_device(int device) {
  thread_device = device;
}

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess)
    thread_error = error;
  return error;
}

void spend_allocation_time() {
  if (unsigned duration_us = config().allocation_us)
    usleep(duration_us);
}

std::atomic<uint64_t> launch_count{0};

} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaGetLastError() {
  cudaError_t error = thread_error;
  thread_error = cudaSuccess;
  return error;
}

SIMCUDA_EXPORT cudaError_t cudaPeekAtLastError() {
  return thread_error;
}

#define SIMCUDA_ERRORS(X)                                                                          \
  X(cudaSuccess, "no error")                                                                       \
  X(cudaErrorInvalidValue, "invalid argument")                                                     \
  X(cudaErrorMemoryAllocation, "out of memory")                                                    \
  X(cudaErrorInitializationError, "initialization error")                                          \
  X(cudaErrorInvalidDevice, "invalid device ordinal")                                              \
  X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                       \
  X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                     \
  X(cudaErrorIllegalState, "the operation cannot be performed in the present state")               \
  X(cudaErrorNotReady, "device not ready")                                                         \
  X(cudaErrorNotSupported, "operation not supported")                                              \
  X(cudaErrorSymbolNotFound, "named symbol not found")                                             \
  X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")         \
  X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")  \
  X(cudaErrorStreamCaptureUnmatched, "capture was not initiated in this stream")                   \
  X(cudaErrorCapturedEvent,                                                                        \
    "operation not permitted on an event last recorded in a capturing stream")

SIMCUDA_EXPORT const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define SIMCUDA_NAME(code, text)                                                                   \
  case code:                                                                                       \
    return #code;
    SIMCUDA_ERRORS(SIMCUDA_NAME)
#undef SIMCUDA_NAME
  default:
    return "unrecognized error code";
  }
}

SIMCUDA_EXPORT const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define SIMCUDA_TEXT(code, text)                                                                   \
  case code:                                                                                       \
    return text;
    SIMCUDA_ERRORS(SIMCUDA_TEXT)
#undef SIMCUDA_TEXT
  default:
    return "unrecognized error code";
  }
}
