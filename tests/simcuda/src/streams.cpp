#include "streams.h"

#include "device_memory.h"
#include "graphs.h"

#include <algorithm>
#include <array>
#include <map>

namespace simcuda {
namespace {

struct Streams {
  std::array<std::shared_ptr<Stream>, kMaxDevices> defaults;
  std::map<uint64_t, std::shared_ptr<Stream>> created;
  // Handles are numbers, not addresses: torch's allocator orders free blocks by them, and numbers
  // that rise in order of creation make that order the same in every run.
  uint64_t next_handle = 0x10000;

  Streams() {
    for (int device = 0; device < kMaxDevices; ++device)
      defaults[device] = std::make_shared<Stream>(Stream{0, device, 0, cudaStreamDefault});
  }
};

Streams& streams() {
  static Streams* state = new Streams;
  return *state;
}

bool has_reached_locked(Stream& stream, uint64_t position) {
  advance_locked(stream);
  return stream.completed >= position;
}

} // namespace

std::shared_ptr<Stream> find_stream_locked(cudaStream_t handle) {
  auto number = reinterpret_cast<uint64_t>(handle);
  constexpr uint64_t kLastAlias = 2; // 1 is cudaStreamLegacy, 2 cudaStreamPerThread
  if (number <= kLastAlias)
    return streams().defaults[current_device()];
  auto found = streams().created.find(number);
  return found == streams().created.end() ? nullptr : found->second;
}

std::deque<std::shared_ptr<Stream>> streams_of_locked(int device) {
  std::deque<std::shared_ptr<Stream>> result;
  for (const auto& stream : streams().defaults)
    if (device < 0 || stream->device == device)
      result.push_back(stream);
  for (const auto& [handle, stream] : streams().created)
    if (device < 0 || stream->device == device)
      result.push_back(stream);
  return result;
}

void submit_locked(Stream& stream) {
  if (stream.capture) {
    ++stream.capture->nodes;
    return;
  }
  ++stream.submitted;
  advance_locked(stream);
}

void advance_locked(Stream& stream) {
  if (stream.held)
    return;
  while (!stream.barriers.empty()) {
    Barrier& barrier = stream.barriers.front();
    if (!has_reached_locked(*barrier.awaited, barrier.position)) {
      stream.completed = std::max(stream.completed, barrier.after);
      return;
    }
    stream.barriers.pop_front();
  }
  stream.completed = stream.submitted;
}

void complete_locked(Stream& stream, uint64_t position) {
  while (!stream.barriers.empty() && stream.barriers.front().after < position) {
    Barrier barrier = stream.barriers.front();
    stream.barriers.pop_front();
    complete_locked(*barrier.awaited, barrier.position);
  }
  stream.completed = std::max(stream.completed, position);
}

void hold_stream(cudaStream_t handle) {
  Guard guard(state_lock());
  if (auto stream = find_stream_locked(handle)) {
    advance_locked(*stream);
    stream->held = true;
  }
}

void release_stream(cudaStream_t handle) {
  Guard guard(state_lock());
  if (auto stream = find_stream_locked(handle)) {
    stream->held = false;
    advance_locked(*stream);
  }
}

} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags,
                                                        int priority) {
  Guard guard(state_lock());
  int device = current_device();
  if (cudaError_t error = use_device_locked(device); error != cudaSuccess)
    return report(error);
  uint64_t handle = streams().next_handle;
  streams().next_handle += 16;
  streams().created[handle] = std::make_shared<Stream>(Stream{handle, device, priority, flags});
  *out = reinterpret_cast<cudaStream_t>(handle);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  return cudaStreamCreateWithPriority(out, flags, 0);
}

SIMCUDA_EXPORT cudaError_t cudaStreamCreate(cudaStream_t* out) {
  return cudaStreamCreateWithPriority(out, cudaStreamDefault, 0);
}

SIMCUDA_EXPORT cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream || stream->handle == 0)
    return report(cudaErrorInvalidResourceHandle);
  // Its work still completes; events and barriers keep the object alive.
  stream->held = false;
  streams().created.erase(stream->handle);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  *priority = stream->priority;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least)
    *least = 0;
  if (greatest)
    *greatest = -5;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  if (stream->capture)
    return report(invalidate_locked(*stream->capture));
  // Not an error that cudaGetLastError would have to show.
  return has_reached_locked(*stream, stream->submitted) ? cudaSuccess : cudaErrorNotReady;
}

SIMCUDA_EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  if (stream->capture)
    return report(invalidate_locked(*stream->capture));
  complete_locked(*stream, stream->submitted);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaDeviceSynchronize() {
  if (cudaError_t error = refuse_in_capture(); error != cudaSuccess)
    return report(error);
  Guard guard(state_lock());
  int device = current_device();
  if (cudaError_t error = use_device_locked(device); error != cudaSuccess)
    return report(error);
  for (const auto& stream : streams_of_locked(device))
    complete_locked(*stream, stream->submitted);
  return cudaSuccess;
}

// Host functions are called at once, on the calling thread, even for a held stream.
SIMCUDA_EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function,
                                              void* data) {
  {
    Guard guard(state_lock());
    auto stream = find_stream_locked(handle);
    if (!stream)
      return report(cudaErrorInvalidResourceHandle);
    submit_locked(*stream);
    if (stream->capture)
      return cudaSuccess;
  }
  function(data);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t callback,
                                                 void* data, unsigned) {
  callback(handle, cudaSuccess, data);
  return cudaSuccess;
}
