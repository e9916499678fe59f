// The rows that Lifetimes writes in batches, and what it tells of itself at the end.
#include "analyse/json.h"
#include "analyse/lifetimes.h"

#include <algorithm>
#include <string>
#include <utility>

namespace memtrace {
namespace {

// Allocations between one whose row is made and one that is fetched from memory meanwhile.
constexpr size_t kAhead = 16;

void prefetch(const Allocation& allocation) {
  constexpr size_t kLineBytes = 64;
  const auto* bytes = reinterpret_cast<const char*>(&allocation);
  for (size_t at = 0; at < sizeof(Allocation); at += kLineBytes)
    __builtin_prefetch(bytes + at);
}

} // namespace

void Lifetimes::add_finished_rows() {
  std::vector<std::pair<int64_t, uint32_t>> order; // sorting these moves 16 bytes, not 200
  order.reserve(finished_.size());
  for (const Allocation& a : finished_)
    order.emplace_back(a.alloc_seq, static_cast<uint32_t>(order.size()));
  std::ranges::sort(order);
  for (size_t i = 0; i < order.size(); ++i) {
    if (i + kAhead < order.size())
      prefetch(finished_[order[i + kAhead].second]);
    const Allocation& a = finished_[order[i].second];
    out_.allocations.add(
        a.id, labels_.device(a.device), labels_.memory(a.memory), labels_.origin(a.origin),
        a.address, a.size_bytes, a.block_bytes, a.resident_bytes, a.alloc_seq, a.free_seq,
        a.release_seq, a.alloc_time_ns, a.free_time_ns, a.release_time_ns, or_null(a.thread),
        or_null(a.free_thread), a.stream, a.pool, a.segment_id, a.op, a.top_op, a.forward_op,
        a.call_id, a.forward_call_id, a.module, a.module_class, a.source, or_null(a.stack),
        labels_.phase(a.phase), a.stage, a.step, labels_.category(a.label_category),
        labels_.category_by(a.label_category), a.label);
  }
  finished_.clear();
}

// As what an allocation there would have been said to be of.
void Lifetimes::add_oom_mark(const AllocatorEvent& event, Place place) {
  Allocation asked{};
  attribute(asked, event);
  std::string text = "{";
  for (const auto& [key, word] : {std::pair("operator", asked.op),
                                  {"top_operator", asked.top_op},
                                  {"forward_operator", asked.forward_op},
                                  {"module", asked.module},
                                  {"module_class", asked.module_class},
                                  {"source", asked.source}}) {
    if (word == StringId::null)
      continue;
    append_quoted(text, key);
    text += ": ";
    append_quoted(text, names_[word]);
    text += ", ";
  }
  text += R"("forward_call_id": )";
  text += asked.forward_call_id == kNull ? "null" : std::to_string(asked.forward_call_id);
  text += '}';
  out_.marks.add(place.seq, place.time_ns, labels_.device(event.tail.device), names_.intern("oom"),
                 StringId::null, names_.intern(text), or_null(event.tail.thread));
}

void Lifetimes::add_segment_row(DeviceCode code, const SegmentRange& range) {
  const bool ended = range.free.seq >= 0;
  out_.segments.add(range.id, labels_.device(code), range.address,
                    static_cast<int64_t>(range.size_bytes), range.alloc.seq,
                    ended ? range.free.seq : kNull, range.alloc.time_ns,
                    ended ? range.free.time_ns : kNull, range.stream, labels_.pool(range.pool),
                    int64_t{range.small}, int64_t{range.expandable});
}

void Lifetimes::add_segment_rows(DeviceCode code, Device& cuda) {
  for (const SegmentRange& range : cuda.mirror.segments().take_ended())
    add_segment_row(code, range);
}

void Lifetimes::finish() {
  for (auto& [thread, state] : threads_)
    calls_.finish(state.calls);
  pool_.each([this](uint32_t, const Allocation& allocation) { finished_.push_back(allocation); });
  for (size_t code = 1; code < devices_.size(); ++code)
    if (devices_[code])
      for (const auto& [address, range] : devices_[code]->mirror.segments().live())
        add_segment_row(static_cast<DeviceCode>(code), range);
}

void Lifetimes::add_timeline_rows() {
  const std::array<StringId, Timeline::kMetrics> metrics = {
      names_.intern("allocated"), names_.intern("active"), names_.intern("reserved")};
  for (const DeviceCode code : devices()) // the CPU's three are one and the same
    devices_[code]->timeline.add_rows(out_.timeline, labels_.device(code), metrics,
                                      code == kCpu ? 1 : Timeline::kMetrics);
}

DeviceTally Lifetimes::tally(DeviceCode code) const {
  if (!devices_[code])
    return {};
  DeviceTally tally = devices_[code]->tally;
  if (code != kCpu) {
    tally.current = devices_[code]->mirror.bytes();
    tally.peak = devices_[code]->mirror.peak();
  }
  return tally;
}

uint64_t Lifetimes::mirror_inconsistencies() const {
  uint64_t sum = 0;
  for (const auto& device : devices_)
    sum += device ? device->mirror.inconsistencies() : 0;
  return sum;
}

std::vector<DeviceCode> Lifetimes::devices() const {
  std::vector<DeviceCode> codes;
  for (size_t code = 0; code < devices_.size(); ++code)
    if (devices_[code])
      codes.push_back(static_cast<DeviceCode>(code));
  return codes;
}

const BlockMirror* Lifetimes::mirror(DeviceCode code) const {
  return code != kCpu && devices_[code] ? &devices_[code]->mirror : nullptr;
}

} // namespace memtrace
