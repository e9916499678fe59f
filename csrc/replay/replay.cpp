#include "replay/replay.h"

#include <algorithm>

namespace memtrace::replay {
namespace {

// Frees before one allocation of which each might be the first that was waited for.
constexpr size_t kMostTried = 64;

class Replayer {
 public:
  Replayer(const Requests& requests, const Options& options)
      : requests_(requests), options_(options),
        allocator_(options.first_settings,
                   Driver(options.capacity_bytes, options.addresses, requests.segment_events),
                   options.total_bytes, requests.streams, requests.pools),
        places_(requests.allocations, kNoBlock) {
    allocator_.set_memory_fraction(options.fraction.value_or(options.first_fraction));
    allocator_.seed(requests.ranges, requests.blocks,
                    [&](uint32_t allocation, BlockIndex block) { places_[allocation] = block; });
    if (options.keeps_totals) {
      out_.block_bytes.resize(requests.allocations);
      for (auto* column : {&out_.totals.allocated, &out_.totals.active, &out_.totals.reserved,
                           &out_.totals.requested})
        column->resize(requests.size());
      for (const HeldBlock& held : requests.blocks)
        out_.block_bytes[held.allocation] = held.size_bytes;
    }
  }

  Outcome run() {
    note(0);
    for (size_t at = 0; at < requests_.size() && !out_.stopped;) {
      const size_t next = advance(at);
      if (options_.keeps_totals)
        for (size_t done = at; done < next; ++done)
          keep_totals(done);
      at = next;
      if (allocator_.driver().divergence() && !out_.divergence) {
        out_.divergence = allocator_.driver().divergence();
        out_.diverged_at = at - 1;
        break;
      }
    }
    if (!out_.divergence && !out_.stopped) {
      allocator_.driver().finish();
      out_.divergence = allocator_.driver().divergence();
      out_.diverged_at = requests_.size();
    }
    out_.compared = allocator_.driver().compared();
    out_.last = allocator_.bytes();
    out_.retries = allocator_.retries();
    return std::move(out_);
  }

 private:
  bool compares() const { return options_.addresses == Addresses::recorded; }
  bool allocates(size_t at) const {
    return at < requests_.size() && (requests_.kind_at(at) == RequestKind::malloc ||
                                     requests_.kind_at(at) == RequestKind::failed_malloc);
  }
  // A free that was completed later than it was requested.
  bool deferred(size_t at) const {
    return at < requests_.size() && requests_.kind_at(at) == RequestKind::free_completed &&
           (at == 0 || requests_.kind_at(at - 1) != RequestKind::free_requested ||
            requests_.detail[at - 1] != requests_.detail[at]);
  }

  // Does the request at the place (or several); returns the place after it.
  size_t advance(size_t at) {
    if (!compares() || !deferred(at)) {
      apply(at);
      return at + 1;
    }
    size_t end = at + 1;
    while (deferred(end))
      ++end;
    if (allocates(end))
      return resolve(at, end);
    apply(at);
    return at + 1;
  }

  // The frees [at, end) are completed, then an allocation follows: which of them did it wait for?
  size_t resolve(size_t at, size_t end) {
    const size_t frees = end - at;
    for (size_t tried = 0; tried < std::min(frees, kMostTried); ++tried) {
      // First all were waited for, then fewer and fewer.
      if (allocator_.pending() != frees)
        break;
      CachingAllocator before = allocator_;
      const size_t ready = tried;
      for (size_t i = at; i < at + ready; ++i)
        complete(i);
      const uint64_t retries = allocator_.retries();
      const BlockIndex block = allocate(end);
      if (allocator_.retries() > retries && !allocator_.driver().divergence() &&
          (block == kNoBlock) == failed_in_recording(end)) {
        settle(end, block);
        return end + 1;
      }
      allocator_ = std::move(before);
    }
    for (size_t i = at; i < end; ++i)
      complete(i);
    apply(end);
    return end + 1;
  }

  bool failed_in_recording(size_t at) const {
    return requests_.kind_at(at) == RequestKind::failed_malloc;
  }

  void complete(size_t at) {
    const uint32_t allocation = requests_.detail[at];
    allocator_.free_completed(places_[allocation], allocation);
  }

  BlockIndex allocate(size_t at) {
    const BlockIndex block = allocator_.malloc(requests_.size_bytes[at], requests_.stream[at],
                                               requests_.pool[at], requests_.detail[at]);
    if (compares() && block != kNoBlock && !requests_.address.empty())
      allocator_.driver().compare_address(allocator_.block(block).address, requests_.address[at]);
    return block;
  }

  // What an allocation's outcome means for the recording.
  void settle(size_t at, BlockIndex block) {
    const uint32_t allocation = requests_.detail[at];
    places_[allocation] = block;
    note(at);
    if (block != kNoBlock && options_.keeps_totals)
      out_.block_bytes[allocation] = allocator_.block(block).size_bytes;
    const Failure failure{at, requests_.size_bytes[at]};
    if (block == kNoBlock && failed_in_recording(at)) {
      ++out_.repeated_failures;
    } else if (block == kNoBlock) {
      out_.failures.push_back(failure);
      out_.stopped = !options_.goes_on;
    } else if (failed_in_recording(at)) {
      out_.passed.push_back(failure);
      allocator_.free_requested(block, allocation);
      allocator_.free_completed(block, allocation);
    }
  }

  void apply(size_t at) {
    const uint32_t detail = requests_.detail[at];
    const uint16_t pool = requests_.pool[at];
    switch (requests_.kind_at(at)) {
    case RequestKind::malloc:
    case RequestKind::failed_malloc: {
      const uint64_t retries = allocator_.retries();
      const size_t pending = allocator_.pending();
      const BlockIndex block = allocate(at);
      out_.early_waits += allocator_.retries() > retries && pending > 0 ? 1 : 0;
      settle(at, block);
      break;
    }
    case RequestKind::free_requested:
      allocator_.free_requested(places_[detail], detail);
      break;
    case RequestKind::free_completed:
      complete(at);
      break;
    case RequestKind::empty_cache:
      allocator_.empty_cache();
      break;
    case RequestKind::memory_fraction:
      if (!options_.fraction)
        allocator_.set_memory_fraction(requests_.fractions[detail]);
      break;
    case RequestKind::settings:
      allocator_.set_settings(options_.settings.empty() ? requests_.settings[detail]
                                                        : options_.settings[detail]);
      break;
    case RequestKind::capture_begin:
    case RequestKind::use_pool_begin:
      allocator_.begin_capture();
      allocator_.ref_pool(pool);
      break;
    case RequestKind::capture_end:
    case RequestKind::use_pool_end:
      allocator_.end_capture();
      break;
    case RequestKind::pool_ref:
      allocator_.set_pool_rules(pool, {(detail & kNoSplit) != 0, (detail & kOwnAllocator) != 0});
      allocator_.ref_pool(pool);
      break;
    case RequestKind::pool_unref:
      allocator_.unref_pool(pool);
      break;
    case RequestKind::pool_destroyed:
      allocator_.destroy_pool(pool);
      break;
    }
  }

  void note(size_t at) {
    const Bytes& bytes = allocator_.bytes();
    raise(out_.allocated, bytes.allocated, at);
    raise(out_.active, bytes.active, at);
    raise(out_.requested, bytes.requested, at);
    if (allocator_.peak_reserved_bytes() > out_.reserved.bytes) {
      out_.reserved = {allocator_.peak_reserved_bytes(), at};
      out_.segments = allocator_.segments();
      out_.unused_bytes = bytes.reserved - bytes.active;
      out_.largest_unused_bytes = allocator_.largest_free_bytes();
    }
  }
  static void raise(Peak& peak, uint64_t bytes, size_t at) {
    if (bytes > peak.bytes)
      peak = {bytes, at};
  }
  void keep_totals(size_t at) {
    const Bytes& bytes = allocator_.bytes();
    out_.totals.allocated[at] = bytes.allocated;
    out_.totals.active[at] = bytes.active;
    out_.totals.reserved[at] = bytes.reserved;
    out_.totals.requested[at] = bytes.requested;
  }

  const Requests& requests_;
  const Options& options_;
  CachingAllocator allocator_;
  std::vector<BlockIndex> places_; // of each allocation
  Outcome out_;
};

} // namespace

namespace {

// Below what the detail of such a request must be.
size_t details(const Requests& requests, RequestKind kind) {
  if (kind <= RequestKind::failed_malloc)
    return requests.allocations;
  if (kind == RequestKind::memory_fraction)
    return requests.fractions.size();
  return kind == RequestKind::settings ? requests.settings.size() : SIZE_MAX;
}

} // namespace

const char* defect(const Requests& requests) {
  const size_t size = requests.size();
  const auto fits = [&](size_t stream, size_t pool) {
    return stream < requests.streams && pool < requests.pools;
  };
  for (const size_t length : {requests.detail.size(), requests.size_bytes.size(),
                              requests.stream.size(), requests.pool.size()})
    if (length != size)
      return "columns of requests differ in length";
  if (!requests.address.empty() && requests.address.size() != size)
    return "columns of requests differ in length";
  for (size_t at = 0; at < size; ++at) {
    if (requests.kind[at] >= kRequestKinds)
      return "a request of no known kind";
    if (!fits(requests.stream[at], requests.pool[at]) ||
        requests.detail[at] >= details(requests, requests.kind_at(at)))
      return "a stream, a pool or a detail of a request out of range";
  }
  const bool held =
      std::ranges::all_of(requests.ranges,
                          [&](const HeldRange& one) { return fits(one.stream, one.pool); }) &&
      std::ranges::all_of(requests.blocks, [&](const HeldBlock& one) {
        return one.allocation < requests.allocations;
      });
  return held ? "" : "a stream, a pool or an allocation of what was held out of range";
}

Outcome replay(const Requests& requests, const Options& options) {
  return Replayer(requests, options).run();
}

} // namespace memtrace::replay
