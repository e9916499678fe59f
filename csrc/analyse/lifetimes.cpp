#include "analyse/lifetimes.h"

#include <algorithm>

namespace memtrace {
namespace {

// More than any machine has, in one allocation and in all that a device holds: such a size, sum or
// address is damage, and sums must not overflow.
constexpr uint64_t kMostBytes = uint64_t{1} << 48;
constexpr uint64_t kMostBytesInAll = uint64_t{1} << 53;
constexpr uint64_t kMostAddress = uint64_t{1} << 62;
constexpr uint64_t kUnitOfPreexistingBlock = 512; // AllocatorEvent::context counts these

int64_t signed_bytes(uint64_t bytes) {
  return static_cast<int64_t>(bytes);
}

} // namespace

Lifetimes::Lifetimes(NameStrings& names, Labels& labels, OperatorCalls& calls,
                     ForwardCalls& forward_calls, Stages& stages, Datasets& out)
    : names_(names), labels_(labels), calls_(calls), forward_calls_(forward_calls), stages_(stages),
      out_(out) {}

void Lifetimes::set_device_bytes(DeviceCode code, uint64_t bytes) {
  device_bytes_[code] = bytes;
}

void Lifetimes::set_settings(const AllocatorSettings& settings) {
  settings_ = settings;
  for (auto& device : devices_)
    if (device)
      device->mirror.set_settings(settings);
}

void Lifetimes::set_pool_rules(uint64_t first, uint64_t second, const PoolRules& rules) {
  const StringId pool = labels_.mempool(first, second);
  if (rules.no_split || rules.own_allocator)
    pool_rules_[pool] = rules;
  else
    pool_rules_.erase(pool);
}

PoolRules Lifetimes::rules_of(uint16_t pool) {
  if (pool == 0 || pool_rules_.empty())
    return {};
  const auto found = pool_rules_.find(labels_.pool(pool));
  return found != pool_rules_.end() ? found->second : PoolRules{};
}

void Lifetimes::reset_peak(DeviceCode code) {
  for (size_t i = 1; i < devices_.size(); ++i) {
    if (!devices_[i] || (code != kCpu && code != i))
      continue;
    devices_[i]->mirror.reset_peak();
    devices_[i]->tally.peak_reset = true;
  }
}

void Lifetimes::pause() {
  paused_ = true;
}

// What torch counted meanwhile, its peak among it, we did not see.
void Lifetimes::resume() {
  if (!std::exchange(paused_, false))
    return;
  for (size_t code = 1; code < devices_.size(); ++code)
    if (devices_[code]) {
      devices_[code]->tally.began_in_midrun = true;
      devices_[code]->tally.peak_reset = false;
    }
}

bool Lifetimes::tells_nothing(const AllocatorEvent& event) {
  const DeviceCode code = event.tail.device;
  switch (event.tail.action) {
  case Action::free_requested:
  case Action::free_completed: {
    const Allocation* live = find(code, event.address);
    return live == nullptr ||
           (event.tail.action == Action::free_requested && live->free_seq != kNull);
  }
  case Action::preexisting: {
    const Allocation* live = code != kCpu ? find(code, event.address) : nullptr;
    return live != nullptr && live->size_bytes == signed_bytes(event.size_bytes);
  }
  default:
    return false;
  }
}

void Lifetimes::tell_reserved(DeviceCode code, uint64_t bytes) {
  if (settings_.blocks_only && code != kCpu && bytes <= kMostBytes)
    device(code).mirror.tell_reserved(signed_bytes(bytes));
}

Lifetimes::Device& Lifetimes::device(DeviceCode code) {
  auto& device = devices_[code];
  if (!device) {
    device = std::make_unique<Device>();
    device->mirror.set_settings(settings_);
    device->mirror.segments().set_device_bytes(device_bytes_[code]);
  }
  return *device;
}

Lifetimes::ThreadState& Lifetimes::thread_state(uint32_t thread) {
  if (!last_state_ || last_thread_ != thread) {
    last_state_ = &threads_[thread]; // references into the map stay valid
    last_state_->calls.id = thread;
    last_thread_ = thread;
  }
  return *last_state_;
}

const Stages::Current& Lifetimes::stage_and_step(uint32_t thread, uint32_t forward) {
  ThreadState& state = thread_state(thread);
  if (state.stages_version != stages_.version() || state.forward_thread != forward) {
    state.stages_version = stages_.version();
    state.forward_thread = forward;
    state.current = stages_.current(thread, forward);
  }
  return state.current;
}

// Why it was allocated, and where in the program: of backward memory, its forward call's.
void Lifetimes::attribute(Allocation& allocation, const AllocatorEvent& event) {
  allocation.op = names_.of(event.op_name);
  allocation.top_op = names_.of(event.top_name);
  const bool recorded = event.tail.action == Action::alloc || event.tail.action == Action::oom;
  const ForwardCalls::Context& context =
      forward_calls_.context(event.tail.thread, recorded ? event.context : 0);
  const Stages::Current& current = stage_and_step(event.tail.thread, context.forward_thread);
  allocation.stage = current.stage;
  allocation.step = current.step;
  const Owner owner = forward_calls_.owner(context, event.stack);
  allocation.module = owner.module;
  allocation.module_class = owner.module_class;
  allocation.source = owner.source;
  if (context.knows_forward())
    allocation.step = context.forward.step;
  if (allocation.step == kNull)
    allocation.step = current.marked_step;
  const bool records_graph = recorded && (event.context & kRecordsGraph) != 0;
  const bool recompute = forward_calls_.is_recompute(context, event.stack);
  if (context.is_backward() && !recompute) {
    allocation.phase = Phase::backward;
    allocation.forward_call_id = context.forward.id;
    allocation.forward_op = context.forward.name;
  } else if (context.kind == ContextKind::optimizer && !records_graph) { // else: its closure's
    allocation.phase = Phase::optimizer;
  } else if (recompute || (recorded && (records_graph || current.in_own_step ||
                                        owner.module != StringId::null))) {
    allocation.phase = Phase::forward;
  }
}

Allocation* Lifetimes::find(DeviceCode code, uint64_t address) {
  if (!devices_[code] && code != kCpu)
    return nullptr;
  uint32_t holder = 0;
  if (code != kCpu) {
    if (const Block* block = device(code).mirror.live(address))
      holder = block->holder;
  } else if (const uint32_t* live = device(kCpu).live.find(address)) {
    holder = *live;
  } else if (const auto told = told_.find(address); told != told_.end()) {
    holder = told->second;
  }
  return holder != 0 ? &pool_[holder] : nullptr;
}

bool Lifetimes::possible(const AllocatorEvent& event) {
  switch (event.tail.action) {
  case Action::oom: // any size may be asked for
    return event.size_bytes <= INT64_MAX && event.stream <= kMostAddress;
  case Action::snapshot:
    return event.size_bytes <= kMostBytes && event.stream <= kMostAddress;
  case Action::free_requested:
  case Action::free_completed:
    return event.address != 0 && event.address <= kMostAddress;
  case Action::segment_alloc:
  case Action::segment_free:
  case Action::segment_map:
  case Action::segment_unmap:
    return event.tail.device != kCpu && event.address != 0 && event.address <= kMostAddress &&
           event.size_bytes > 0 && event.size_bytes <= kMostBytes;
  case Action::external:
    return event.tail.device == kCpu && event.address != 0 && event.address <= kMostAddress &&
           event.size_bytes <= kMostBytes;
  default:
    return event.address != 0 && event.address <= kMostAddress && event.size_bytes <= kMostBytes &&
           (event.tail.device != kCpu || event.stream <= kMostBytes);
  }
}

bool Lifetimes::too_much(const AllocatorEvent& event) const {
  const Device* home = devices_[event.tail.device].get();
  if (home == nullptr)
    return false;
  const bool cpu = event.tail.device == kCpu;
  const DeviceBytes& bytes = cpu ? home->tally.current : home->mirror.bytes();
  uint64_t added = event.size_bytes;
  int64_t held = 0;
  switch (event.tail.action) {
  case Action::alloc:
  case Action::preexisting:
    held = std::max(bytes.active, bytes.requested);
    if (cpu) // of pinned memory the block counts
      added = std::max(added, event.stream);
    break;
  case Action::segment_alloc:
  case Action::segment_map:
    held = bytes.reserved;
    break;
  case Action::external:
    held = external_bytes_;
    break;
  default:
    return false;
  }
  return held + signed_bytes(added) > signed_bytes(kMostBytesInAll);
}

void Lifetimes::event(const AllocatorEvent& event, int64_t time_ns) {
  if (!possible(event) || too_much(event)) {
    ++counts_.bad_records;
    return;
  }
  const bool of_scan = event.tail.device == kCpu && event.size_bytes != 0 &&
                       event.tail.action == Action::free_requested;
  if (of_scan && told_of(event) == 0)
    return;
  if (paused_ && tells_nothing(event)) [[unlikely]]
    return;
  const Place place{next_seq_, last_time_ns_ = time_ns};
  Outcome outcome;
  Device& home = device(event.tail.device);
  if (event.tail.device == kCpu)
    cpu_event(event, place, outcome);
  else
    cuda_event(event, place, outcome);
  const int64_t call_id = calls_.event(thread_state(event.tail.thread).calls, event.call, place.seq,
                                       outcome.allocated_bytes, outcome.freed_bytes);
  if (outcome.born != 0)
    pool_[outcome.born].call_id = call_id;
  const DeviceBytes& bytes = event.tail.device == kCpu ? home.tally.current : home.mirror.bytes();
  add_event_row(event, place, outcome, call_id, bytes);
  if (event.tail.action == Action::oom)
    add_oom_mark(event, place);
  home.timeline.add(time_ns, {bytes.allocated, bytes.active, bytes.reserved});
  if (watch_)
    watch_->counted(event.tail.device, bytes, place);
  ++next_seq_;
}

void Lifetimes::add_event_row(const AllocatorEvent& event, Place place, const Outcome& outcome,
                              int64_t call_id, const DeviceBytes& bytes) {
  const bool cuda = event.tail.device != kCpu;
  const bool oom = event.tail.action == Action::oom;
  const bool snapshot = event.tail.action == Action::snapshot;
  const uint64_t stream = oom ? event.address : event.stream;
  out_.events.add(place.seq, place.time_ns, labels_.device(event.tail.device),
                  labels_.action(event.tail.action), outcome.allocation_id, outcome.segment_id,
                  oom || (snapshot && event.address == 0) ? kNull
                                                          : static_cast<int64_t>(event.address),
                  outcome.size_bytes, outcome.block_bytes, or_null(event.tail.thread),
                  cuda ? static_cast<int64_t>(stream) : kNull,
                  cuda ? labels_.pool(event.tail.pool) : StringId::null, call_id,
                  or_null(event.stack), bytes.allocated, bytes.active, bytes.reserved,
                  oom ? static_cast<int64_t>(event.stream) : kNull);
}

Allocation Lifetimes::begin(const AllocatorEvent& event, Place place, Origin origin) {
  const bool cuda = event.tail.device != kCpu;
  Allocation allocation{};
  allocation.id = next_allocation_id_++;
  allocation.address = event.address;
  allocation.size_bytes = allocation.block_bytes = signed_bytes(event.size_bytes);
  allocation.alloc_seq = place.seq;
  allocation.alloc_time_ns = place.time_ns;
  allocation.stream = cuda ? static_cast<int64_t>(event.stream) : kNull;
  allocation.thread = event.tail.thread;
  allocation.stack = event.stack;
  allocation.pool = cuda ? labels_.pool(event.tail.pool) : StringId::null;
  allocation.device = event.tail.device;
  if (!cuda) {
    const auto memory = static_cast<Memory>(event.tail.pool);
    allocation.memory = memory == Memory::device || memory > Memory::shared ? Memory::host : memory;
    // Pinned memory lies in blocks of a cache; 0: its block is not known.
    if (memory == Memory::pinned && event.stream != 0)
      allocation.block_bytes = signed_bytes(event.stream);
  }
  allocation.origin = origin;
  attribute(allocation, event);
  return allocation;
}

void Lifetimes::finish_allocation(uint32_t holder) {
  const Allocation& allocation = pool_[holder];
  if (allocation.device == kCpu && allocation.origin != Origin::recorded)
    told_.erase(allocation.address);
  if (allocation.origin == Origin::external)
    external_bytes_ -= allocation.size_bytes;
  if (allocation.named)
    ended_named_.push_back(allocation.id);
  if (!out_.allocations.discards())
    finished_.push_back(pool_[holder]);
  pool_.give_back(holder);
}

// Its free was not recorded, and its memory is in other hands now: it ends here.
void Lifetimes::missed(uint32_t holder, Place place) {
  ++counts_.missed_frees;
  Allocation& allocation = pool_[holder];
  if (allocation.free_seq == kNull) {
    allocation.free_seq = place.seq;
    allocation.free_time_ns = place.time_ns;
    tell_freed(allocation);
  }
  if (allocation.device != kCpu) {
    allocation.release_seq = place.seq;
    allocation.release_time_ns = place.time_ns;
  }
  finish_allocation(holder);
}

// ---- CPU: an allocation holds what was asked for, a pinned one its block ------------------------

void Lifetimes::cpu_event(const AllocatorEvent& event, Place place, Outcome& outcome) {
  Device& cpu = device(kCpu);
  outcome.size_bytes = signed_bytes(event.size_bytes);
  switch (event.tail.action) {
  case Action::alloc:
  case Action::preexisting:
    cpu_alloc(cpu, event, place, outcome);
    break;
  case Action::free_requested:
  case Action::free_completed:
    cpu_free(cpu, event, place, outcome);
    break;
  case Action::external:
    external(event, place, outcome);
    break;
  case Action::oom:
    ++cpu.tally.ooms;
    break;
  default:
    break;
  }
}

void Lifetimes::add_cpu_bytes(Device& cpu, int64_t bytes) {
  DeviceBytes& now = cpu.tally.current;
  now.allocated += bytes;
  now.active = now.reserved = now.requested = now.allocated;
  cpu.tally.peak.allocated = std::max(cpu.tally.peak.allocated, now.allocated);
}

void Lifetimes::cpu_alloc(Device& cpu, const AllocatorEvent& event, Place place, Outcome& outcome) {
  end_told(event.address, event.size_bytes, place);
  if (const uint32_t* held = cpu.live.find(event.address)) {
    add_cpu_bytes(cpu, -pool_[*held].block_bytes);
    missed(*held, place);
  }
  const Origin origin =
      event.tail.action == Action::preexisting ? Origin::preexisting : Origin::recorded;
  const Allocation allocation = begin(event, place, origin);
  outcome.born = pool_.take(allocation);
  cpu.live.insert(event.address, outcome.born);
  if (origin == Origin::preexisting)
    told_[event.address] = outcome.born;
  add_cpu_bytes(cpu, allocation.block_bytes);
  tell_began(pool_[outcome.born]);
  ++cpu.tally.allocations;
  outcome.allocation_id = allocation.id;
  outcome.block_bytes = allocation.block_bytes;
  if (origin == Origin::recorded)
    outcome.allocated_bytes = allocation.block_bytes;
}

void Lifetimes::cpu_free(Device& cpu, const AllocatorEvent& event, Place place, Outcome& outcome) {
  uint32_t holder = told_of(event);
  if (holder == 0) {
    if (const uint32_t* held = cpu.live.find(event.address))
      holder = *held;
    else if (const auto told = told_.find(event.address); told != told_.end())
      holder = told->second;
  }
  if (holder == 0) {
    ++counts_.unmatched_frees;
    outcome.size_bytes = event.size_bytes != 0 ? signed_bytes(event.size_bytes) : kNull;
    return;
  }
  Allocation& allocation = pool_[holder];
  allocation.free_seq = place.seq;
  allocation.free_time_ns = place.time_ns;
  allocation.free_thread = event.tail.thread;
  tell_freed(allocation);
  outcome.allocation_id = allocation.id;
  outcome.size_bytes = allocation.size_bytes;
  outcome.block_bytes = allocation.block_bytes;
  if (allocation.origin != Origin::external) {
    add_cpu_bytes(cpu, -allocation.block_bytes);
    ++cpu.tally.frees;
    outcome.freed_bytes = allocation.block_bytes;
    cpu.live.erase(event.address);
  }
  finish_allocation(holder);
}

// ---- CPU memory that scans tell of --------------------------------------------------------------

// Memory that no allocator of torch gave: shown, but not part of what the allocator holds. Memory
// of torch's that came back to it through numpy is what it was.
void Lifetimes::external(const AllocatorEvent& event, Place place, Outcome& outcome) {
  if (device(kCpu).live.find(event.address))
    return;
  if (const auto told = told_.find(event.address); told != told_.end())
    missed(told->second, place);
  const Allocation allocation = begin(event, place, Origin::external);
  outcome.born = pool_.take(allocation);
  told_[event.address] = outcome.born;
  external_bytes_ += allocation.size_bytes;
  tell_began(pool_[outcome.born]);
  outcome.allocation_id = allocation.id;
  outcome.block_bytes = allocation.block_bytes;
}

uint32_t Lifetimes::told_of(const AllocatorEvent& event) {
  const auto told = told_.find(event.address);
  if (told == told_.end() || event.size_bytes == 0)
    return 0;
  const Allocation& allocation = pool_[told->second];
  return allocation.size_bytes == signed_bytes(event.size_bytes) ? told->second : 0;
}

void Lifetimes::end_told(uint64_t address, uint64_t bytes, Place place) {
  while (!told_.empty()) {
    auto next = told_.lower_bound(address + std::max<uint64_t>(bytes, 1));
    if (next == told_.begin())
      return;
    const auto [start, holder] = *--next;
    if (start + static_cast<uint64_t>(pool_[holder].size_bytes) <= address)
      return;
    end_told(holder, place);
  }
}

void Lifetimes::end_told(uint32_t holder, Place place) {
  Allocation& allocation = pool_[holder];
  allocation.free_seq = place.seq;
  allocation.free_time_ns = place.time_ns;
  tell_freed(allocation);
  if (allocation.origin == Origin::preexisting) {
    Device& cpu = device(kCpu);
    add_cpu_bytes(cpu, -allocation.block_bytes);
    cpu.live.erase(allocation.address);
  }
  finish_allocation(holder);
}

// ---- CUDA -------------------------------------------------------------------------------------

void Lifetimes::cuda_event(const AllocatorEvent& event, Place place, Outcome& outcome) {
  Device& cuda = device(event.tail.device);
  outcome.size_bytes = signed_bytes(event.size_bytes);
  switch (event.tail.action) {
  case Action::alloc:
  case Action::preexisting:
    cuda_alloc(cuda, event, place, outcome);
    break;
  case Action::free_requested:
  case Action::free_completed:
    cuda_free(cuda, event, place, outcome);
    break;
  case Action::segment_alloc:
  case Action::segment_free:
  case Action::segment_map:
  case Action::segment_unmap:
    cuda_range(cuda, event, place, outcome);
    break;
  case Action::oom:
    ++cuda.tally.ooms;
    break;
  default:
    break;
  }
}

void Lifetimes::cuda_alloc(Device& cuda, const AllocatorEvent& event, Place place,
                           Outcome& outcome) {
  if (const Block* held = cuda.mirror.live(event.address)) {
    const uint32_t holder = held->holder;
    cuda.mirror.free_completed(event.address);
    if (holder != BlockMirror::kNobody)
      missed(holder, place);
  }
  const bool preexisting = event.tail.action == Action::preexisting;
  const uint32_t holder =
      pool_.take(begin(event, place, preexisting ? Origin::preexisting : Origin::recorded));
  const Block& block =
      preexisting
          ? cuda.mirror.preexisting(event.address, event.size_bytes,
                                    event.context * kUnitOfPreexistingBlock, holder)
          : cuda.mirror.alloc(event.address, event.size_bytes, holder, rules_of(event.tail.pool));
  outcome.block_bytes = signed_bytes(block.size_bytes);
  const SegmentRange* range = cuda.mirror.segments().find(event.address);
  // In a pause ranges are recorded, and all is known of them but of those that are listed as well.
  if (preexisting && (!paused_ || (range && range->alloc.time_ns == place.time_ns)))
    cuda.mirror.segments().forget_bases();
  if (range) {
    outcome.segment_id = range->id;
    cuda.mirror.segments().prove_small(*range,
                                       AllocatorSettings::small(settings_.round(event.size_bytes)));
  }
  Allocation& placed = pool_[holder];
  placed.block_bytes = outcome.block_bytes;
  placed.segment_id = outcome.segment_id;
  tell_began(placed);
  outcome.allocation_id = placed.id;
  outcome.born = holder;
  if (preexisting)
    cuda.tally.began_in_midrun = true;
  else
    outcome.allocated_bytes = outcome.block_bytes;
  ++cuda.tally.allocations;
}

void Lifetimes::cuda_free(Device& cuda, const AllocatorEvent& event, Place place,
                          Outcome& outcome) {
  Block* block = cuda.mirror.live(event.address);
  if (!block || block->holder == BlockMirror::kNobody) {
    ++counts_.unmatched_frees;
    return;
  }
  const uint32_t holder = block->holder;
  Allocation& allocation = pool_[holder];
  outcome.allocation_id = allocation.id;
  outcome.segment_id = allocation.segment_id;
  outcome.size_bytes = allocation.size_bytes;
  outcome.block_bytes = allocation.block_bytes;
  if (allocation.free_seq == kNull) {
    allocation.free_seq = place.seq;
    allocation.free_time_ns = place.time_ns;
    allocation.free_thread = event.tail.thread;
    outcome.freed_bytes = allocation.block_bytes;
    tell_freed(allocation);
    ++cuda.tally.frees;
  }
  if (event.tail.action == Action::free_requested) {
    cuda.mirror.free_requested(*block);
    return;
  }
  allocation.release_seq = place.seq;
  allocation.release_time_ns = place.time_ns;
  cuda.mirror.free_completed(event.address);
  finish_allocation(holder);
}

void Lifetimes::cuda_range(Device& cuda, const AllocatorEvent& event, Place place,
                           Outcome& outcome) {
  const Action action = event.tail.action;
  lost_.clear();
  if (action == Action::segment_free || action == Action::segment_unmap) {
    if (const SegmentRange* range = cuda.mirror.segments().find(event.address))
      outcome.segment_id = range->id;
    cuda.mirror.remove_range(event.address, event.size_bytes, place, lost_);
  } else {
    const bool expandable = action == Action::segment_map;
    cuda.mirror.add_range(event.address, event.size_bytes, event.stream, event.tail.pool,
                          expandable, place, lost_);
    if (const SegmentRange* range = cuda.mirror.segments().find(event.address))
      outcome.segment_id = range->id;
    cuda.tally.expandable |= expandable;
    ++cuda.tally.segments;
  }
  for (const uint32_t holder : lost_)
    missed(holder, place);
  add_segment_rows(event.tail.device, cuda);
}

} // namespace memtrace
