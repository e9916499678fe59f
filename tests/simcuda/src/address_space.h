// The addresses of the simulated machine: reservations of host address space, handed out from the
// lowest free address up. The kernel's mmap would place blocks at random; here the same program
// gets the same addresses in every run, which golden tests and best-fit ties need. Each device and
// the pinned host memory have an arena of their own, so that threads that race on one don't move
// the addresses of another.
#pragma once

#include "runtime.h"

namespace simcuda {

constexpr int kHostArena = kMaxDevices; // arenas 0 to kMaxDevices - 1 are the devices'

// Addresses without memory behind them, aligned to pages of 2 MiB; 0 when the arena is used up.
uintptr_t reserve_addresses_locked(int arena, size_t bytes);

// Gives a reservation back, and the host memory that was behind it.
void release_addresses_locked(uintptr_t address);

// Makes a reserved range readable and writable (it reads as zeros), or takes its memory away: a
// touch of freed or unmapped device memory is a fault at once.
bool back_with_memory(uintptr_t address, size_t bytes);
bool take_memory_away(uintptr_t address, size_t bytes);

} // namespace simcuda
