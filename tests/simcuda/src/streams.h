// Streams and events, as far as an allocator can see them: what has been submitted, and what of it
// has completed. Work completes at once unless the stream is held by a test (simcuda_hold_stream)
// or waits for an event of a stream that is.
#pragma once

#include "runtime.h"

#include <deque>
#include <memory>

namespace simcuda {

struct Capture;
struct Stream;

// Work of the waiting stream submitted after `after` starts when `awaited` has reached `position`.
struct Barrier {
  uint64_t after;
  std::shared_ptr<Stream> awaited;
  uint64_t position;
};

struct Stream {
  uint64_t handle;
  int device;
  int priority;
  unsigned flags;
  bool held = false;
  uint64_t submitted = 0;
  uint64_t completed = 0;
  std::deque<Barrier> barriers{}; // in order of `after`
  std::shared_ptr<Capture> capture{};
};

// The stream of this handle; the current device's default stream for 0 and its two aliases.
std::shared_ptr<Stream> find_stream_locked(cudaStream_t handle);

// Every stream of a device (-1: of all devices).
std::deque<std::shared_ptr<Stream>> streams_of_locked(int device);

// One more piece of work on the stream: a node of the graph if the stream is being captured.
void submit_locked(Stream& stream);

// Completes what can complete by itself.
void advance_locked(Stream& stream);

// Waits for the work up to `position`, held or not: in one process nobody else could release it.
void complete_locked(Stream& stream, uint64_t position);

void hold_stream(cudaStream_t handle);
void release_stream(cudaStream_t handle);

} // namespace simcuda
