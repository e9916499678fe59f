// What other processes hold of the simulated devices, where they are told to share a folder
// (SIMCUDA_SHARED): each has a file there, named by its number. NVML shows them all; the capacity
// of a device is not shared.
#pragma once

#include <cstddef>
#include <vector>

namespace simcuda {

struct OtherProcess {
  int pid;
  size_t bytes;
};

// Tells the others what this process holds of the device now.
void publish_locked(int device, size_t bytes);

// Those that run and hold something of it.
std::vector<OtherProcess> other_processes(int device);

} // namespace simcuda
