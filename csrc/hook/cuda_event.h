// One event of the CUDA caching allocator, from torch's TraceEntry to a record: the hot path.
//
// A template over the entry, so that it is measured and tested without torch (benchmarks/record/
// event_instructions.cpp). Runs under the device's lock.
#pragma once

#include "hook/allocator_event.h"
#include "hook/ended_addresses.h"

#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <utility>

namespace memtrace {

constexpr int kMaxCudaDevices = 256; // indexed by torch's int8 as a byte

struct alignas(64) CudaDevice {
  // The recording that this device's events belong to. Until the live blocks from before a
  // recording have been listed, its events are in that list and not recorded themselves.
  std::atomic<const Recording*> recording{nullptr};
  std::atomic<const Recording*> plain{nullptr}; // the same, where record_plain_cuda_event() may run
  uint64_t tail = 0;            // Tail word of an alloc by thread 0: the base of all its events'
  uint64_t order = 0;           // place in the device's order; counted under the device's lock
  uint64_t listed_at_ticks = 0; // when the live blocks were listed; written under that lock
  bool stamped = false;         // torch's entries bear ticks (ticks_of)
  uint32_t listed_order = 0;    // of the last event before that
  // While the recording is paused; taken away under the lock, when the live blocks are listed.
  std::atomic<EndedAddresses*> paused{nullptr};
  EndedAddresses* ended = nullptr; // made at the first pause, kept for the next
};
inline CudaDevice g_cuda_devices[kMaxCudaDevices];
// What this thread is listing in list_live_blocks().
struct ListedDevices {
  int next = -1; // the device that comes next; -1: it lists none
  uint64_t since_ticks = 0;
};
inline thread_local ListedDevices t_listing;

// Both enumerations have the same order up to SEGMENT_UNMAP; cuda_allocator.cpp checks it.
template <class TraceEntry>
constexpr Action action_of(typename TraceEntry::Action action) noexcept {
  if (action == TraceEntry::SNAPSHOT)
    return Action::snapshot;
  if (action == TraceEntry::OOM)
    return Action::oom;
  return static_cast<Action>(static_cast<uint8_t>(action) + static_cast<uint8_t>(Action::alloc));
}

// torch's c10::MempoolId_t.
using MempoolId = std::pair<unsigned long long, unsigned long long>;

// Memory pools get small numbers, from 1 in each recording. Few exist, so a list in the order of
// first sight will do; it is read without a lock, since entries are written before the count is
// published. It belongs to one recording at a time: a thread that is held up in a hook of an
// earlier one may read entries that are being written anew, but its record comes too late anyway.
class CudaPoolTable {
 public:
  static constexpr uint32_t kMostPools = 4096; // in a recording; those beyond have one number

  uint16_t find(const MempoolId& pool, Recording& recording) noexcept {
    if (recording_.load(std::memory_order_acquire) == &recording) [[likely]]
      if (const uint16_t number = known(pool))
        return number;
    return add(pool, recording);
  }

 private:
  struct Entry {
    std::atomic<uint64_t> first{0}, second{0};
  };

  // 0: not there.
  uint16_t known(const MempoolId& pool) const noexcept {
    for (uint32_t i = count_.load(std::memory_order_acquire); i > 0; --i)
      if (const Entry& entry = pools_[i - 1];
          entry.first.load(std::memory_order_relaxed) == pool.first &&
          entry.second.load(std::memory_order_relaxed) == pool.second)
        return static_cast<uint16_t>(i);
    return 0;
  }

  uint16_t add(const MempoolId& pool, Recording& recording) noexcept {
    const std::lock_guard lock(mutex_);
    if (recording_.load(std::memory_order_relaxed) != &recording) {
      const Recording* const now = g_kept_recording.load(std::memory_order_acquire);
      if (now && now != &recording) // of an earlier one: it must not take the table away
        return kUnnumberedPool;
      count_.store(0, std::memory_order_relaxed);
      recording_.store(&recording, std::memory_order_release);
    }
    if (const uint16_t number = known(pool)) // another device's thread was first
      return number;
    const uint32_t count = count_.load(std::memory_order_relaxed);
    if (count == kMostPools) {
      recording.lose(Loss::pool_unnumbered);
      return kUnnumberedPool;
    }
    const RecorderApi& api = recording.api;
    const uint64_t text[2] = {pool.first, pool.second};
    api.text(api.recorder, TextKind::pool, count + 1, text, sizeof text);
    pools_[count].first.store(pool.first, std::memory_order_relaxed);
    pools_[count].second.store(pool.second, std::memory_order_relaxed);
    count_.store(count + 1, std::memory_order_release);
    return static_cast<uint16_t>(count + 1);
  }

  std::mutex mutex_;
  std::atomic<const Recording*> recording_{nullptr}; // whose pools these are
  std::array<Entry, kMostPools> pools_;
  std::atomic<uint32_t> count_{0};
};

inline CudaPoolTable& cuda_pools() {
  static auto* table = new CudaPoolTable;
  return *table;
}

inline uint16_t pool_number(const MempoolId& pool, Recording& recording) noexcept {
  if ((pool.first | pool.second) == 0) [[likely]]
    return 0;
  return cuda_pools().find(pool, recording);
}

// Torch 2.6 does not say of which pool an event is: there all memory counts as of the default one.
template <class TraceEntry>
constexpr bool kPoolsKnown = requires(const TraceEntry& entry) { entry.mempool_; };

inline constexpr MempoolId kOnlyPool{0, 0};

template <class TraceEntry> const MempoolId& pool_of(const TraceEntry& entry) noexcept {
  if constexpr (kPoolsKnown<TraceEntry>)
    return entry.mempool_;
  else
    return kOnlyPool;
}

// The device of an event; torch's index is never negative here.
template <class TraceEntry> uint32_t device_index(const TraceEntry& entry) noexcept {
  return static_cast<uint8_t>(entry.device_);
}

// Under the device's lock torch stamps each entry itself (c10::getApproximateTime), with the
// counter that ticks are: where the clock need not be read a second time.
template <class TraceEntry>
constexpr bool kStamped = requires(const TraceEntry& entry) { entry.time_.approx_t_; };

template <class TraceEntry> uint64_t stamp_of(const TraceEntry& entry) noexcept {
  if constexpr (kStamped<TraceEntry>)
    return static_cast<uint64_t>(entry.time_.approx_t_);
  else
    return 0;
}

// Shown by an entry that was made between two looks at our clock: a torch that is built otherwise
// stamps with another one.
template <class TraceEntry>
bool is_stamped_since(const TraceEntry& entry, uint64_t since_ticks) noexcept {
  const uint64_t stamp = stamp_of(entry);
  return kClock == Clock::tsc && since_ticks <= stamp && stamp <= ticks_after();
}

template <class TraceEntry>
uint64_t ticks_of(const TraceEntry& entry, const CudaDevice& device) noexcept {
  return device.stamped ? stamp_of(entry) : ticks_before();
}

// From now on this device's events are recorded; under its lock. Also what ends a pause.
inline void open_cuda_device(int index, const Recording& recording, bool stamped) noexcept {
  CudaDevice& device = g_cuda_devices[index];
  if (device.recording.load(std::memory_order_relaxed) != &recording)
    device.order = 0;
  device.listed_at_ticks = ticks_before();
  device.stamped = stamped;
  device.listed_order = static_cast<uint32_t>(device.order);
  device.tail = std::bit_cast<uint64_t>(Tail{0, 0, cuda_device(index), Action::alloc});
  device.paused.store(nullptr, std::memory_order_relaxed);
  device.recording.store(&recording, std::memory_order_relaxed);
  device.plain.store(stamped ? &recording : nullptr, std::memory_order_relaxed);
}

// From now on only the end of memory that was recorded, and what is rare. Without memory for that
// the device goes on as before, which is as exact.
inline void pause_cuda_device(CudaDevice& device, const Recording& recording) noexcept {
  if (device.recording.load(std::memory_order_relaxed) != &recording)
    return;
  if (!device.ended)
    device.ended = new (std::nothrow) EndedAddresses;
  if (!device.ended || device.paused.load(std::memory_order_relaxed) || !device.ended->clear())
    return;
  device.paused.store(device.ended, std::memory_order_release);
  device.plain.store(nullptr, std::memory_order_relaxed);
}

// Any event, in any state of the thread.
template <class TraceEntry>
[[gnu::noinline]] void record_any_cuda_event(const TraceEntry& entry) noexcept {
  HookScope scope(g_kept_recording);
  if (!scope)
    return;
  // torch's snapshot goes from device to device and reports itself under each one's lock (always as
  // device 0): the exact moment between what it lists and what is recorded as an event.
  if (entry.action_ == TraceEntry::SNAPSHOT && t_listing.next >= 0) [[unlikely]] {
    if (t_listing.next < kMaxCudaDevices)
      open_cuda_device(t_listing.next++, scope.recording(),
                       is_stamped_since(entry, t_listing.since_ticks));
    return;
  }
  CudaDevice& device = g_cuda_devices[device_index(entry)];
  if (device.recording.load(std::memory_order_relaxed) != &scope.recording()) [[unlikely]]
    return;
  AllocatorFacts facts{};
  facts.ticks = ticks_of(entry, device); // under the lock; `order` orders what the clock may not
  facts.size_bytes = entry.size_;
  facts.order = static_cast<uint32_t>(++device.order);
  facts.pool = pool_number(pool_of(entry), scope.recording());
  facts.device = cuda_device(static_cast<int>(device_index(entry)));
  facts.action = action_of<TraceEntry>(entry.action_);
  if (facts.action == Action::oom) {
    facts.stream = entry.addr_; // free bytes of the device
    facts.address = reinterpret_cast<uint64_t>(entry.stream_);
  } else {
    facts.address = entry.addr_;
    facts.stream = reinterpret_cast<uint64_t>(entry.stream_);
  }
  write_event(scope, facts);
}

// The event of a thread that has recorded before, in no operator, without a stack, in the default
// pool: the same record with few instructions, no call and no register saved. False: not such a
// one.
template <class TraceEntry>
[[gnu::always_inline]] inline bool record_plain_cuda_event(const TraceEntry& entry) noexcept {
  ThreadState* state = t_state;
  if (!state || !state->is_idle()) [[unlikely]]
    return false;
  CudaDevice* device = &g_cuda_devices[device_index(entry)];
  asm("" : "+r"(device)); // keeps the address in a register instead of computing it again
  const Recording* recording = device->plain.load(std::memory_order_relaxed);
  // Before the gate: of a device that is paused this is all that is done.
  if (state->recording.load(std::memory_order_relaxed) != recording) [[unlikely]]
    return false;
  state->busy.store(1, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst); // see HookScope
  ThreadLog* log = state->log;
  if (g_recording.load(std::memory_order_relaxed) != recording ||
      (entry.size_ >= recording->stack_min_bytes && entry.action_ == TraceEntry::ALLOC) ||
      (pool_of(entry).first | pool_of(entry).second) != 0 ||
      entry.action_ >= TraceEntry::SNAPSHOT || log->cursor == log->end) [[unlikely]] {
    state->busy.store(0, std::memory_order_release);
    return false;
  }
  Record* record = log->cursor;
  AllocatorEvent& event = record->event;
  event.ticks = stamp_of(entry);
  event.address = entry.addr_;
  event.size_bytes = entry.size_;
  event.stream = reinterpret_cast<uint64_t>(entry.stream_);
  event.call = event.stack = event.op_name = event.top_name = 0;
  device->order += 1;
  std::memcpy(&event.order, &device->order, sizeof device->order); // and reserved = 0
  constexpr int kActionShift = 56;                          // Tail::action is the highest byte
  const auto action = static_cast<uint64_t>(entry.action_); // alloc is in the base
  static_assert(TraceEntry::ALLOC == 0);
  log->publish_word(record, (device->tail | state->thread) + (action << kActionShift));
  state->busy.store(0, std::memory_order_release);
  return true;
}

// A pause leaves out allocations and their ends. Whatever is freed first at an address may have
// been recorded before; what is freed there later was allocated in the pause.
template <class TraceEntry>
[[gnu::noinline]] void record_paused_cuda_event(EndedAddresses& ended,
                                                const TraceEntry& entry) noexcept {
  static_assert(TraceEntry::FREE_REQUESTED == 1 && TraceEntry::FREE_COMPLETED == 2);
  // Blocks begin at multiples of 512: the lowest bit tells the two frees of one apart.
  const uint64_t completed = entry.action_ == TraceEntry::FREE_COMPLETED ? 1 : 0;
  if (entry.action_ > TraceEntry::FREE_COMPLETED || ended.insert(entry.addr_ | completed))
    record_any_cuda_event(entry);
}

// In functions of their own, so that what a pause leaves out saves no registers.
template <class TraceEntry>
[[gnu::noinline]] void record_rare_cuda_event(const TraceEntry& entry) noexcept {
  EndedAddresses* const ended =
      g_cuda_devices[device_index(entry)].paused.load(std::memory_order_acquire);
  if (!ended) [[likely]]
    return record_any_cuda_event(entry);
  if (entry.action_ != TraceEntry::ALLOC)
    record_paused_cuda_event(*ended, entry);
}

template <class TraceEntry> void record_cuda_event(const TraceEntry& entry) noexcept {
  if (!record_plain_cuda_event(entry)) [[unlikely]]
    record_rare_cuda_event(entry);
}

} // namespace memtrace
