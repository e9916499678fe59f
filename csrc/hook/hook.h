// The hooks that a recording installs, each in a file of its own.
#pragma once

#include <cstdint>
#include <string>

namespace memtrace {

// operators.cpp: RecordFunction callbacks; installed and removed with a recording.
void install_operators();
void remove_operators();

// cpu_allocator.cpp: a wrapper around torch's CPU allocator, likewise.
void install_cpu_allocator();
void remove_cpu_allocator();

// pinned_allocator.cpp: torch's CUDA allocator of pinned host memory, likewise; nothing where this
// torch has none.
void install_pinned_allocator();
void remove_pinned_allocator();

// cuda_allocator.cpp: torch offers no way to detach, so the tracker is attached once per process
// and the gate turns it off. Each recording begins with the blocks that are live already.
enum class CudaAttach { attached, no_cuda_build, not_initialized };
// Throws std::runtime_error when the allocator back end has no tracker (cudaMallocAsync,
// pluggable).
CudaAttach attach_cuda_allocator();
// A pause records the end of blocks alone; after it, those that are live are listed again.
void pause_cuda_allocator();
void resume_cuda_allocator();

} // namespace memtrace
