// What a running process holds, followed from its spool: each record is read once.
//
//     SpoolFollower -> Live -> Lifetimes, ForwardCalls, Stages, TensorNotes -> LiveOwners
//
// The same classes as in a conversion tell what each record means, so the sums are those that the
// finished trace has; only rows are not kept. Memory is bounded by what is live, by distinct owners
// and names, and by kMostForwardCalls. One thread at a time.
#pragma once

#include "analyse/datasets.h"
#include "analyse/forward_calls.h"
#include "analyse/labels.h"
#include "analyse/lifetimes.h"
#include "analyse/live_owners.h"
#include "analyse/name_strings.h"
#include "analyse/operator_calls.h"
#include "analyse/record_reading.h"
#include "analyse/stack_facts.h"
#include "analyse/stages.h"
#include "analyse/tensor_notes.h"
#include "store/spool_follower.h"

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace memtrace {

enum class LiveGrouping : uint8_t { category, module, op, source };

struct LiveGroup {
  StringId key = StringId::null; // null: has none; of categories: not known yet
  LiveSums now, peak;
};

// A call of an outermost module.
struct LiveStep {
  int64_t number = 0;             // 0: none yet
  StringId name = StringId::null; // the program's own, or the class of the model
  bool running = false;
};

class Live {
 public:
  // Throws SpoolError, also when the spool is not made yet.
  explicit Live(const std::string& directory);
  ~Live() = default;
  Live(const Live&) = delete;
  Live& operator=(const Live&) = delete;

  // Reads on for about so long; true: all that is settled was read. `ended`: the writer publishes
  // nothing more.
  bool advance(bool ended, uint64_t most_ns);

  std::vector<DeviceCode> devices() const { return lifetimes_.devices(); }
  const LiveOwners& owners() const { return owners_; }
  DeviceTally tally(DeviceCode code) const { return lifetimes_.tally(code); }
  // Bytes that the device has; 0: not known.
  uint64_t device_bytes(DeviceCode code) const { return device_bytes_[code]; }
  // The device's owners by one column, those that hold or held something.
  std::vector<LiveGroup> groups(DeviceCode code, LiveGrouping by) const;
  // The most that it held in each of so many equal parts of [0, last_time_ns()]: allocated, active,
  // reserved.
  std::vector<Timeline::Values> curve(DeviceCode code, size_t points) const;

  int64_t last_time_ns() const { return reading_.last_time_ns(); }
  int64_t events() const { return lifetimes_.next_seq(); }
  uint64_t records() const { return reading_.records(); }
  bool paused() const { return paused_; }
  StringId stage() const { return stages_.current(kMainThread, 0).stage; }
  const LiveStep& step() const { return step_; }
  const SpoolFollower& follower() const { return follower_; }
  const LifetimeCounts& counts() const { return lifetimes_.counts(); }
  uint64_t bad_records() const {
    return lifetimes_.counts().bad_records + reading_.unknown_records();
  }
  Labels& labels() { return labels_; }
  const NameStrings& names() const { return names_; }

 private:
  // Of nodes of autograd that may still be waited for: of a larger graph, the oldest have no
  // module.
  static constexpr size_t kMostForwardCalls = size_t{1} << 16;

  void read_process_notes();
  void look(bool ended);
  void record(const Record& record);
  void mark(const Note& note);
  void correct_owners();
  StringId key_of(const LiveOwner& owner, LiveGrouping by) const;

  SpoolFollower follower_;
  TickScale scale_;
  NameStrings names_;
  Datasets out_; // keeps nothing
  Labels labels_;
  StackTable stacks_;
  OperatorCalls calls_;
  ForwardCalls forward_calls_;
  Stages stages_;
  Lifetimes lifetimes_;
  TensorNotes tensors_;
  RecordReading reading_;
  LiveOwners owners_;
  std::array<uint64_t, 256> device_bytes_{};
  size_t process_notes_read_ = 0;
  LiveStep step_;
  bool paused_ = false, ever_paused_ = false;
};

} // namespace memtrace
