// Replays the requests of a recording, and tells what the allocator would have done.
//
// With the recording's own settings and addresses every event with the driver is compared with the
// recorded one. With other settings, another capacity or changed requests it is a prediction:
// requests come in the recorded order, frees are completed where they were recorded.
//
// A free that waited for other streams is completed either because it was ready, or because an
// allocation that found no memory waited for it. The recording does not tell which, only the
// order; so before such an allocation the replay tries the latter, and takes the former when the
// outcome contradicts the recording.
#pragma once

#include "replay/requests.h"

#include <optional>
#include <vector>

namespace memtrace::replay {

struct Options {
  // Used throughout; without them those of the recording, as they change in it.
  std::optional<AllocatorSettings> settings;
  AllocatorSettings first_settings; // before the first `settings` request
  std::optional<uint64_t> capacity_bytes;
  uint64_t total_bytes = 0;       // of the device
  double first_fraction = 1.0;    // before the first `memory_fraction` request
  std::optional<double> fraction; // used throughout
  Addresses addresses = Addresses::rising;
  // Goes on after an allocation failed that did not fail in the recording.
  bool goes_on = false;
  // Fills `totals` and `block_bytes`.
  bool keeps_totals = false;
};

struct Peak {
  uint64_t bytes = 0;
  size_t request = 0; // that reached it first
};

struct Failure {
  size_t request;
  uint64_t size_bytes; // asked for
};

// After each request. Frees of which it is not known when they were completed count as completed
// with the allocation that might have waited for them.
struct Totals {
  std::vector<uint64_t> allocated, active, reserved, requested;
};

struct Outcome {
  Peak allocated, active, reserved, requested;
  Bytes last; // after the last request
  // When reserved memory was at its peak.
  size_t segments = 0;
  uint64_t unused_bytes = 0, largest_unused_bytes = 0;

  uint64_t retries = 0;
  std::vector<Failure> failures;  // that the recording did not have: the first one ends the replay
  uint64_t repeated_failures = 0; // failed in the recording, and here
  std::vector<Failure> passed;    // failed in the recording, and not here; freed at once
  bool stopped = false;
  // Retries that completed frees before their recorded place: their waits might be others'.
  uint64_t early_waits = 0;

  size_t compared = 0;
  std::optional<Divergence> divergence;
  size_t diverged_at = 0; // request
  Totals totals;
  std::vector<uint64_t> block_bytes; // of each allocation; 0: it was not served
};

Outcome replay(const Requests& requests, const Options& options);

} // namespace memtrace::replay
