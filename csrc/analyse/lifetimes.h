// Allocator events in, rows of `events`, `allocations` and `segments` out.
//
// Holds the live allocations of every device and the mirror of every CUDA device. Memory is bounded
// by what is live and by one part of finished allocations. Events that do not fit (frees of unknown
// addresses, missed frees, impossible records) are counted, never fatal.
#pragma once

#include "analyse/address_map.h"
#include "analyse/allocation.h"
#include "analyse/allocation_watch.h"
#include "analyse/block_mirror.h"
#include "analyse/datasets.h"
#include "analyse/forward_calls.h"
#include "analyse/labels.h"
#include "analyse/operator_calls.h"
#include "analyse/reconcile.h"
#include "analyse/stages.h"
#include "analyse/timeline.h"
#include "record/event.h"

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace memtrace {

struct LifetimeCounts {
  uint64_t unmatched_frees = 0; // of addresses that held nothing we know of
  uint64_t missed_frees = 0;    // an address was handed out again without its free
  uint64_t bad_records = 0;     // impossible values
};

class Lifetimes {
 public:
  Lifetimes(NameStrings& names, Labels& labels, OperatorCalls& calls, ForwardCalls& forward_calls,
            Stages& stages, Datasets& out);

  // `watch` must outlive this.
  void set_watch(AllocationWatch* watch) { watch_ = watch; }
  void set_device_bytes(DeviceCode code, uint64_t bytes);
  void set_settings(const AllocatorSettings& settings);
  // Of torch's pool of these two words, from now on.
  void set_pool_rules(uint64_t first, uint64_t second, const PoolRules& rules);
  void reset_peak(DeviceCode code); // kCpu: of all CUDA devices
  // torch's counter: taken for the truth where the events do not tell of segments.
  void tell_reserved(DeviceCode code, uint64_t bytes);

  // What is allocated in a pause is not recorded; its end may be, and means nothing. What is live
  // at its end is listed just before resume(), with what was known already.
  void pause();
  void resume();
  bool paused() const { return paused_; }

  void event(const AllocatorEvent& event, int64_t time_ns);
  int64_t next_seq() const { return next_seq_; }
  int64_t last_time_ns() const { return last_time_ns_; } // of the last event

  OperatorCalls::Thread& calls_of(uint32_t thread) { return thread_state(thread).calls; }
  // Something new is known of it, such as a category that the user gave it.
  void named(Allocation& allocation, StringId name, StringId kind) {
    if (watch_)
      watch_->named(allocation, name, kind);
  }
  // The allocation that is live at the address, or null.
  Allocation* find(DeviceCode code, uint64_t address);

  // Named allocations that ended since the last call.
  std::vector<int64_t> take_ended_named() { return std::exchange(ended_named_, {}); }

  // Finished allocations that wait to be written.
  size_t finished() const { return finished_.size(); }
  // Writes them in alloc_seq order.
  void add_finished_rows();
  // The end of the recording: everything that is live becomes a row, and every segment.
  void finish();
  void add_timeline_rows();
  // All that are live, in no order.
  template <typename Visit> void each_live(Visit visit) {
    pool_.each([&](uint32_t, Allocation& allocation) { visit(allocation); });
  }
  // All of which no row was written, in no order.
  template <typename Visit> void each_unwritten(Visit visit) {
    each_live(visit);
    for (Allocation& allocation : finished_)
      visit(allocation);
  }
  const Timeline* timeline(DeviceCode code) const {
    return devices_[code] ? &devices_[code]->timeline : nullptr;
  }

  DeviceTally tally(DeviceCode code) const;
  const LifetimeCounts& counts() const { return counts_; }
  size_t threads() const { return threads_.size() - threads_.count(0); } // 0: of none
  uint64_t mirror_inconsistencies() const;
  std::vector<DeviceCode> devices() const;
  const BlockMirror* mirror(DeviceCode code) const;

 private:
  struct ThreadState {
    OperatorCalls::Thread calls;
    Stages::Current current; // of an allocation in the backward of this thread's forward calls
    uint32_t forward_thread = 0;
    uint64_t stages_version = 0;
  };
  struct Device {
    BlockMirror mirror;        // CUDA
    AddressMap<uint32_t> live; // CPU: address -> holder
    DeviceTally tally;         // CPU: `current` is kept here
    Timeline timeline;
  };
  // What an event's row says beyond the event itself.
  struct Outcome {
    int64_t allocation_id = kNull, segment_id = kNull;
    int64_t size_bytes = kNull, block_bytes = kNull;
    int64_t allocated_bytes = 0, freed_bytes = 0; // counted in the operator
    uint32_t born = 0;                            // holder of the allocation that began
  };

  static bool possible(const AllocatorEvent& event);
  PoolRules rules_of(uint16_t pool);
  // Possible by itself, and with all that is held already more than there can be.
  bool too_much(const AllocatorEvent& event) const;
  // Of a pause: says nothing that is not known.
  bool tells_nothing(const AllocatorEvent& event);
  Device& device(DeviceCode code);
  ThreadState& thread_state(uint32_t thread);
  // `forward`: RecordFunction's number of the thread that ran the forward pass of this backward.
  const Stages::Current& stage_and_step(uint32_t thread, uint32_t forward);
  void attribute(Allocation& allocation, const AllocatorEvent& event);
  Allocation begin(const AllocatorEvent& event, Place place, Origin origin);
  void tell_began(Allocation& allocation) {
    if (watch_)
      watch_->began(allocation);
  }
  void tell_freed(const Allocation& allocation) {
    if (watch_)
      watch_->freed(allocation);
  }
  void finish_allocation(uint32_t holder);
  void missed(uint32_t holder, Place place);
  void cpu_event(const AllocatorEvent& event, Place place, Outcome& outcome);
  void cpu_alloc(Device& cpu, const AllocatorEvent& event, Place place, Outcome& outcome);
  void cpu_free(Device& cpu, const AllocatorEvent& event, Place place, Outcome& outcome);
  void external(const AllocatorEvent& event, Place place, Outcome& outcome);
  static void add_cpu_bytes(Device& cpu, int64_t bytes);
  // The row that a scan's word on the end of memory is about; 0: none, it ended already.
  uint32_t told_of(const AllocatorEvent& event);
  // Another has this memory now: what a scan knew there is gone.
  void end_told(uint64_t address, uint64_t bytes, Place place);
  void end_told(uint32_t holder, Place place);
  void cuda_event(const AllocatorEvent& event, Place place, Outcome& outcome);
  void cuda_alloc(Device& cuda, const AllocatorEvent& event, Place place, Outcome& outcome);
  void cuda_free(Device& cuda, const AllocatorEvent& event, Place place, Outcome& outcome);
  void cuda_range(Device& cuda, const AllocatorEvent& event, Place place, Outcome& outcome);
  // Who asked for what was not to be had.
  void add_oom_mark(const AllocatorEvent& event, Place place);
  void add_segment_rows(DeviceCode code, Device& cuda);
  void add_segment_row(DeviceCode code, const SegmentRange& range);
  void add_event_row(const AllocatorEvent& event, Place place, const Outcome& outcome,
                     int64_t call_id, const DeviceBytes& bytes);

  NameStrings& names_;
  Labels& labels_;
  OperatorCalls& calls_;
  ForwardCalls& forward_calls_;
  Stages& stages_;
  Datasets& out_;
  AllocationWatch* watch_ = nullptr;

  AllocatorSettings settings_;
  std::unordered_map<StringId, PoolRules> pool_rules_; // by the pool's name; of few
  std::array<std::unique_ptr<Device>, 256> devices_;
  std::array<uint64_t, 256> device_bytes_{};
  std::unordered_map<uint32_t, ThreadState> threads_;
  uint32_t last_thread_ = 0;
  ThreadState* last_state_ = nullptr;
  AllocationPool pool_;
  // CPU memory that scans told of, external or preexisting, by address -> holder: an allocator's
  // free may never tell of its end.
  std::map<uint64_t, uint32_t> told_;
  int64_t external_bytes_ = 0;
  std::deque<Allocation> finished_; // grows without moving what is in it
  std::vector<uint32_t> lost_;
  std::vector<int64_t> ended_named_;
  int64_t next_seq_ = 0, next_allocation_id_ = 1;
  int64_t last_time_ns_ = 0;
  bool paused_ = false;
  LifetimeCounts counts_;
};

} // namespace memtrace
