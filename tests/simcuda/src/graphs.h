// Stream capture. A graph is a count of nodes: enough for torch, whose allocator asks only whether
// a stream is being captured and under which id.
#pragma once

#include "runtime.h"

#include <thread>

namespace simcuda {

struct Stream;

struct Capture {
  uint64_t id;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  const Stream* origin;
  uint64_t nodes = 0;
  bool active = true;
  bool invalidated = false;
};

// What cudaMalloc and other calls that could wait for the device say while a capture is under way:
// cudaErrorStreamCaptureUnsupported if the mode of the capture or of this thread forbids them.
cudaError_t refuse_in_capture();

// A call that a captured stream doesn't permit spoils the capture; returns the error to report.
cudaError_t invalidate_locked(Capture& capture);

} // namespace simcuda
