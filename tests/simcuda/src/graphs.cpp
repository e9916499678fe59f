#include "graphs.h"

#include "device_memory.h"
#include "streams.h"

#include <algorithm>
#include <map>

namespace simcuda {
namespace {

struct Graph {
  uint64_t nodes;
};

struct Graphs {
  std::deque<std::shared_ptr<Capture>> active;
  std::map<uint64_t, Graph> graphs; // both cudaGraph_t and cudaGraphExec_t are keys of this
  uint64_t next_id = 1;
};

Graphs& graphs() {
  static Graphs* state = new Graphs;
  return *state;
}

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

bool forbids_unsafe_calls(const Capture& capture) {
  if (capture.mode == cudaStreamCaptureModeRelaxed)
    return false;
  if (capture.thread == std::this_thread::get_id())
    return true;
  return capture.mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
}

uint64_t key_of(const void* handle) {
  return reinterpret_cast<uint64_t>(handle);
}

uint64_t add_graph_locked(uint64_t nodes) {
  // Multiples of 16 look like what they pose as, pointers.
  uint64_t key = graphs().next_id++ * 16;
  graphs().graphs[key] = {nodes};
  return key;
}

const Graph* find_graph_locked(const void* handle) {
  auto found = graphs().graphs.find(key_of(handle));
  return found == graphs().graphs.end() ? nullptr : &found->second;
}

} // namespace

cudaError_t refuse_in_capture() {
  if (thread_mode == cudaStreamCaptureModeRelaxed)
    return cudaSuccess;
  Guard guard(state_lock());
  cudaError_t verdict = cudaSuccess;
  for (const auto& capture : graphs().active)
    if (forbids_unsafe_calls(*capture))
      verdict = invalidate_locked(*capture);
  return verdict;
}

cudaError_t invalidate_locked(Capture& capture) {
  capture.invalidated = true;
  return cudaErrorStreamCaptureUnsupported;
}

} // namespace simcuda

using namespace simcuda;

SIMCUDA_EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  // The legacy default stream can't be captured.
  if (stream->handle == 0)
    return report(cudaErrorStreamCaptureUnsupported);
  if (stream->capture)
    return report(cudaErrorIllegalState);
  auto capture = std::make_shared<Capture>(
      Capture{graphs().next_id++, mode, std::this_thread::get_id(), stream.get()});
  stream->capture = capture;
  graphs().active.push_back(capture);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Guard guard(state_lock());
  *graph = nullptr;
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  auto capture = stream->capture;
  if (!capture)
    return report(cudaErrorIllegalState);
  if (capture->origin != stream.get())
    return report(cudaErrorStreamCaptureUnmatched);
  capture->active = false;
  std::erase(graphs().active, capture);
  for (const auto& member : streams_of_locked(-1))
    if (member->capture == capture)
      member->capture = nullptr;
  if (capture->invalidated)
    return report(cudaErrorStreamCaptureInvalidated);
  *graph = reinterpret_cast<cudaGraph_t>(add_graph_locked(capture->nodes));
  return cudaSuccess;
}

// CUDA 13 also asks for the data of edges, of which there are none.
#if CUDART_VERSION >= 13000
#define SIMCUDA_EDGES(parameter) parameter,
#else
#define SIMCUDA_EDGES(parameter)
#endif

SIMCUDA_EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle,
                                                    cudaStreamCaptureStatus* status,
                                                    unsigned long long* id, cudaGraph_t* graph,
                                                    const cudaGraphNode_t** dependencies,
                                                    SIMCUDA_EDGES(const cudaGraphEdgeData** edges)
                                                        size_t* dependency_count) {
  Guard guard(state_lock());
  auto stream = find_stream_locked(handle);
  if (!stream)
    return report(cudaErrorInvalidResourceHandle);
  if (dependencies)
    *dependencies = nullptr;
#if CUDART_VERSION >= 13000
  if (edges)
    *edges = nullptr;
#endif
  if (dependency_count)
    *dependency_count = 0;
  if (!stream->capture) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
  }
  *status = stream->capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
  if (id)
    *id = stream->capture->id;
  // The graph under construction; no call of the simulation looks into it.
  if (graph)
    *graph = reinterpret_cast<cudaGraph_t>(stream->capture->id * 16);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t handle,
                                                 cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(handle, status, nullptr, nullptr, nullptr,
                                  SIMCUDA_EDGES(nullptr) nullptr);
}

SIMCUDA_EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable,
                                                         cudaGraph_t graph, unsigned long long) {
  Guard guard(state_lock());
  const Graph* found = find_graph_locked(graph);
  if (!found)
    return report(cudaErrorInvalidValue);
  *executable = reinterpret_cast<cudaGraphExec_t>(add_graph_locked(found->nodes));
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  Guard guard(state_lock());
  const Graph* graph = find_graph_locked(executable);
  auto stream = find_stream_locked(handle);
  if (!graph || !stream)
    return report(cudaErrorInvalidValue);
  launch_count += graph->nodes;
  submit_locked(*stream);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Guard guard(state_lock());
  return graphs().graphs.erase(key_of(graph)) ? cudaSuccess : report(cudaErrorInvalidValue);
}

SIMCUDA_EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  Guard guard(state_lock());
  return graphs().graphs.erase(key_of(executable)) ? cudaSuccess : report(cudaErrorInvalidValue);
}

SIMCUDA_EXPORT cudaError_t cudaGraphDebugDotPrint(cudaGraph_t, const char*, unsigned) {
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t* nodes,
                                             size_t* count) {
  Guard guard(state_lock());
  const Graph* graph = find_graph_locked(handle);
  if (!graph)
    return report(cudaErrorInvalidValue);
  size_t room = nodes ? *count : 0;
  *count = graph->nodes;
  for (size_t i = 0; i < room && i < graph->nodes; ++i)
    nodes[i] = reinterpret_cast<cudaGraphNode_t>((i + 1) * 16);
  return cudaSuccess;
}

SIMCUDA_EXPORT cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t, cudaGraphNode_t*,
                                                        SIMCUDA_EDGES(cudaGraphEdgeData*)
                                                            size_t* count) {
  *count = 0;
  return cudaSuccess;
}
