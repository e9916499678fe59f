// What the hook's C++ tests have instead of torch and Python: an entry like torch's TraceEntry, a
// stack table that counts, and recordings on a real Recorder.
#pragma once

#include "hook/cuda_event.h"
#include "record/recorder.h"
#include "record/spool_files.h"

#include <memory>
#include <vector>

namespace memtrace::test {

struct Entry {
  // NOLINTNEXTLINE(performance-enum-size): as in torch
  enum Action {
    ALLOC,
    FREE_REQUESTED,
    FREE_COMPLETED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    SNAPSHOT,
    OOM
  };
  Action action_ = ALLOC;
  int8_t device_ = 0;
  size_t addr_ = 0;
  void* stream_ = nullptr;
  size_t size_ = 0;
  MempoolId mempool_ = {0, 0};
  struct Stamp {
    uint64_t approx_t_ = ticks_before(); // torch's is made when it is recorded
  };
  Stamp time_ = {};
};

// The stand-in for Recording::stacks: its take() gives 1, 2, 3, ... in each thread.
StackTable* counting_stacks() noexcept;
inline thread_local uint32_t t_stacks_taken = 0;

// A recording in a directory of its own. What the hooks see of it is never freed, as in the
// product.
class TestRecording {
 public:
  TestRecording() : recorder_(spool_.path(), 0), seen_(make(&recorder_)) {}
  ~TestRecording() { stop(); }
  TestRecording(const TestRecording&) = delete;
  TestRecording& operator=(const TestRecording&) = delete;

  Recording& seen() { return *seen_; }
  Recorder& recorder() { return recorder_; }
  std::string path() const { return spool_.path(); }
  void start() {
    g_kept_recording.store(seen_);
    g_recording.store(seen_);
  }
  void stop() {
    if (g_kept_recording.load() == seen_)
      quiesce();
  }
  std::vector<Record> records() const {
    std::vector<Record> all;
    for (const auto& [key, records] : read_chunks(spool_.path()))
      all.insert(all.end(), records.begin(), records.end());
    return all;
  }

 private:
  static Recording* make(Recorder* recorder);

  TemporaryDirectory spool_;
  Recorder recorder_;
  Recording* seen_;
};

} // namespace memtrace::test
