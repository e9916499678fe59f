#include "device_memory.h"
#include "graphs.h"
#include "streams.h"

#include <unistd.h>

#include <chrono>
#include <cstring>

namespace simcuda {
namespace {

struct Event {
  unsigned flags;
  int64_t time_ns = 0;
  std::shared_ptr<Stream> stream{}; // null until recorded, and when recorded in a capture
  uint64_t position = 0;
  std::weak_ptr<Capture> capture{};
  bool captured = false;
};

Event& event_of(cudaEvent_t handle) {
  return *reinterpret_cast<Event*>(handle);
}

// As with memory, a handle works inside its own process only.
struct IpcHandle {
  int pid;
  const Event* event;
};
static_assert(sizeof(IpcHandle) <= sizeof(cudaIpcEventHandle_t));

int64_t now_ns() {
  auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

bool is_complete_locked(const Event& event) {
  if (!event.stream)
    return true;
  advance_locked(*event.stream);
  return event.stream->completed >= event.position;
}

} // namespace
} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (cudaError_t error = use_device(current_device()); error != cudaSuccess)
    return report(error);
  *event = reinterpret_cast<cudaEvent_t>(new Event{flags});
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

SIMCUDA_EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Guard guard(state_lock());
  delete &event_of(event);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(stream_handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  Event& event = event_of(handle);
  event.time_ns = now_ns();
  event.captured = stream->capture != nullptr;
  event.capture = stream->capture;
  if (event.captured) {
    event.stream = nullptr;
    return cudaSuccess;
  }
  submit_locked(*stream);
  event.stream = stream;
  event.position = stream->submitted;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream,
                                                    unsigned) {
  return cudaEventRecord(event, stream);
}

SIMCUDA_EXPORT cudaError_t cudaEventQuery(cudaEvent_t handle) {
  if (cudaError_t error = refuse_in_capture(); error != cudaSuccess)
    return report(error);
  Guard guard(state_lock());
  const Event& event = event_of(handle);
  if (event.captured)
    return report(cudaErrorCapturedEvent);
  return is_complete_locked(event) ? cudaSuccess : cudaErrorNotReady;
}

SIMCUDA_EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  Guard guard(state_lock());
  const Event& event = event_of(handle);
  if (event.captured)
    return report(cudaErrorCapturedEvent);
  if (event.stream)
    complete_locked(*event.stream, event.position);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start_handle,
                                                cudaEvent_t end_handle) {
  Guard guard(state_lock());
  const Event& start = event_of(start_handle);
  const Event& end = event_of(end_handle);
  bool recorded = start.stream && end.stream;
  if (!recorded || ((start.flags | end.flags) & cudaEventDisableTiming))
    return report(cudaErrorInvalidResourceHandle);
  if (!is_complete_locked(start) || !is_complete_locked(end))
    return cudaErrorNotReady;
  *milliseconds = static_cast<float>(end.time_ns - start.time_ns) * 1e-6f;
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle,
                                               unsigned) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  const Event& event = event_of(event_handle);
  if (event.captured) {
    // A stream that waits for a captured event joins the capture.
    auto capture = event.capture.lock();
    if (capture && capture->active && !stream->capture)
      stream->capture = capture;
    return cudaSuccess;
  }
  if (event.stream && event.stream != stream && !is_complete_locked(event))
    stream->barriers.push_back({stream->submitted, event.stream, event.position});
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
  IpcHandle made{getpid(), &event_of(event)};
  *handle = {};
  memcpy(handle, &made, sizeof made);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
  IpcHandle given;
  memcpy(&given, &handle, sizeof given);
  if (given.pid != getpid())
    return report(cudaErrorNotSupported);
  Guard guard(state_lock());
  *event = reinterpret_cast<cudaEvent_t>(new Event(*given.event));
  return cudaSuccess;
}
