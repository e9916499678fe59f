// Python face of the replay of the caching allocator: numpy arrays in, plain values out.
#include "bind/core_bindings.h"
#include "replay/replay.h"

#include <memory>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace memtrace {
namespace {

template <typename Value> using Column = py::array_t<Value, py::array::c_style>;

constexpr const char* kActionNames[] = {"segment_alloc", "segment_free", "segment_map",
                                        "segment_unmap", "oom"};

template <typename Value> std::span<const Value> span_of(const Column<Value>& column) {
  if (column.ndim() != 1)
    throw py::value_error("a column of requests has not one dimension");
  return {column.data(), static_cast<size_t>(column.size())};
}

// The columns' memory belongs to Python; this keeps it, and what is rows to the replay.
class ReplayRequests {
 public:
  ReplayRequests(const Column<uint8_t>& kind, const Column<uint32_t>& detail,
                 const Column<uint64_t>& size_bytes, const Column<uint16_t>& stream,
                 const Column<uint16_t>& pool, const Column<uint64_t>& address,
                 const std::vector<std::string>& settings, std::vector<double> fractions,
                 const py::dict& ranges, const py::dict& blocks, const py::dict& segment_events,
                 uint32_t allocations, uint16_t streams, uint16_t pools)
      : columns_{py::make_tuple(kind, detail, size_bytes, stream, pool, address)},
        fractions_(std::move(fractions)) {
    for (const std::string& text : settings)
      settings_.push_back(AllocatorSettings::from_json(text));
    fill(ranges_, ranges, "address", &replay::HeldRange::address);
    fill(ranges_, ranges, "size_bytes", &replay::HeldRange::size_bytes);
    fill(ranges_, ranges, "stream", &replay::HeldRange::stream);
    fill(ranges_, ranges, "pool", &replay::HeldRange::pool);
    fill(ranges_, ranges, "small", &replay::HeldRange::small);
    fill(ranges_, ranges, "expandable", &replay::HeldRange::expandable);
    fill(blocks_, blocks, "address", &replay::HeldBlock::address);
    fill(blocks_, blocks, "block_bytes", &replay::HeldBlock::size_bytes);
    fill(blocks_, blocks, "size_bytes", &replay::HeldBlock::requested_bytes);
    fill(blocks_, blocks, "allocation", &replay::HeldBlock::allocation);
    fill(events_, segment_events, "action", &replay::SegmentEvent::action);
    fill(events_, segment_events, "address", &replay::SegmentEvent::address);
    fill(events_, segment_events, "size_bytes", &replay::SegmentEvent::size_bytes);
    fill(events_, segment_events, "stream", &replay::SegmentEvent::stream);
    requests_ = {span_of(kind),
                 span_of(detail),
                 span_of(size_bytes),
                 span_of(stream),
                 span_of(pool),
                 span_of(address),
                 fractions_,
                 settings_,
                 ranges_,
                 blocks_,
                 events_,
                 allocations,
                 streams,
                 pools};
    if (const std::string reason = replay::defect(requests_); !reason.empty())
      throw py::value_error(reason);
  }
  ~ReplayRequests() = default;
  ReplayRequests(const ReplayRequests&) = delete;
  ReplayRequests& operator=(const ReplayRequests&) = delete;

  const replay::Requests& requests() const { return requests_; }

 private:
  // One column of rows; the first one says how many there are.
  template <typename Row, typename Value>
  static void fill(std::vector<Row>& rows, const py::dict& columns, const char* name,
                   Value Row::* member) {
    if (!columns.contains(name))
      return;
    using Stored = std::conditional_t<std::is_enum_v<Value>, uint8_t, Value>;
    const auto column = columns[name].cast<Column<Stored>>();
    const std::span<const Stored> values = span_of(column);
    if (rows.empty())
      rows.resize(values.size());
    if (rows.size() != values.size())
      throw py::value_error("columns of rows differ in length");
    for (size_t i = 0; i < rows.size(); ++i)
      rows[i].*member = static_cast<Value>(values[i]);
  }

  py::tuple columns_;
  std::vector<double> fractions_;
  std::vector<AllocatorSettings> settings_;
  std::vector<replay::HeldRange> ranges_;
  std::vector<replay::HeldBlock> blocks_;
  std::vector<replay::SegmentEvent> events_;
  replay::Requests requests_;
};

// The vector's memory as an array that owns it, of int64: totals are far below 2^63.
py::object to_array(std::vector<uint64_t>&& values) {
  auto owner = std::make_unique<std::vector<uint64_t>>(std::move(values));
  auto* data = reinterpret_cast<int64_t*>(owner->data());
  const auto size = static_cast<py::ssize_t>(owner->size());
  py::capsule capsule(owner.release(),
                      [](void* p) { delete static_cast<std::vector<uint64_t>*>(p); });
  return py::array_t<int64_t>(size, data, capsule);
}

py::dict peak_dict(const replay::Peak& peak) {
  py::dict dict;
  dict["bytes"] = peak.bytes;
  dict["request"] = peak.request;
  return dict;
}

py::list failure_list(const std::vector<replay::Failure>& failures) {
  py::list list;
  for (const replay::Failure& failure : failures)
    list.append(py::make_tuple(failure.request, failure.size_bytes));
  return list;
}

py::object event_tuple(const std::optional<replay::SegmentEvent>& event) {
  if (!event)
    return py::none();
  return py::make_tuple(kActionNames[static_cast<size_t>(event->action)], event->address,
                        event->size_bytes, event->stream);
}

py::dict outcome_dict(replay::Outcome& outcome, bool keeps_totals) {
  py::dict dict;
  dict["allocated"] = peak_dict(outcome.allocated);
  dict["active"] = peak_dict(outcome.active);
  dict["reserved"] = peak_dict(outcome.reserved);
  dict["requested"] = peak_dict(outcome.requested);
  dict["last_allocated_bytes"] = outcome.last.allocated;
  dict["last_active_bytes"] = outcome.last.active;
  dict["last_reserved_bytes"] = outcome.last.reserved;
  dict["last_requested_bytes"] = outcome.last.requested;
  dict["segments"] = outcome.segments;
  dict["unused_bytes"] = outcome.unused_bytes;
  dict["largest_unused_bytes"] = outcome.largest_unused_bytes;
  dict["retries"] = outcome.retries;
  dict["failures"] = failure_list(outcome.failures);
  dict["repeated_failures"] = outcome.repeated_failures;
  dict["passed"] = failure_list(outcome.passed);
  dict["stopped"] = outcome.stopped;
  dict["early_waits"] = outcome.early_waits;
  dict["compared"] = outcome.compared;
  dict["divergence"] = py::none();
  if (outcome.divergence) {
    py::dict divergence;
    divergence["request"] = outcome.diverged_at;
    divergence["predicted"] = event_tuple(outcome.divergence->predicted);
    divergence["recorded"] = event_tuple(outcome.divergence->recorded);
    divergence["predicted_address"] = outcome.divergence->predicted_address;
    divergence["recorded_address"] = outcome.divergence->recorded_address;
    dict["divergence"] = std::move(divergence);
  }
  if (keeps_totals) {
    py::dict totals;
    totals["allocated"] = to_array(std::move(outcome.totals.allocated));
    totals["active"] = to_array(std::move(outcome.totals.active));
    totals["reserved"] = to_array(std::move(outcome.totals.reserved));
    totals["requested"] = to_array(std::move(outcome.totals.requested));
    dict["totals"] = std::move(totals);
    dict["block_bytes"] = to_array(std::move(outcome.block_bytes));
  }
  return dict;
}

py::dict run(const ReplayRequests& given, const std::string& addresses, uint64_t total_bytes,
             const std::string& first_settings,
             const std::optional<std::vector<std::string>>& settings,
             std::optional<uint64_t> capacity_bytes, double first_fraction,
             std::optional<double> fraction, bool goes_on, bool keeps_totals) {
  replay::Options options;
  options.first_settings = AllocatorSettings::from_json(first_settings);
  std::vector<AllocatorSettings> instead;
  if (settings) {
    if (settings->size() != given.requests().settings.size())
      throw py::value_error("settings: one for each that is recorded");
    for (const std::string& text : *settings)
      instead.push_back(AllocatorSettings::from_json(text));
    options.settings = instead;
  }
  options.capacity_bytes = capacity_bytes;
  options.total_bytes = total_bytes;
  options.first_fraction = first_fraction;
  options.fraction = fraction;
  options.goes_on = goes_on;
  options.keeps_totals = keeps_totals;
  if (addresses == "recorded")
    options.addresses = replay::Addresses::recorded;
  else if (addresses == "falling")
    options.addresses = replay::Addresses::falling;
  else if (addresses != "rising")
    throw py::value_error("addresses: recorded, rising or falling");
  replay::Outcome outcome;
  {
    py::gil_scoped_release release;
    outcome = replay::replay(given.requests(), options);
  }
  return outcome_dict(outcome, keeps_totals);
}

} // namespace

void register_replay(py::module_& module) {
  py::list kinds;
  for (const char* name : replay::kRequestKindNames)
    kinds.append(name);
  module.attr("REQUEST_KINDS") = py::tuple(kinds);
  py::list actions;
  for (const char* name : kActionNames)
    actions.append(name);
  module.attr("SEGMENT_ACTIONS") = py::tuple(actions);
  py::class_<ReplayRequests>(module, "ReplayRequests")
      .def(py::init<const Column<uint8_t>&, const Column<uint32_t>&, const Column<uint64_t>&,
                    const Column<uint16_t>&, const Column<uint16_t>&, const Column<uint64_t>&,
                    const std::vector<std::string>&, std::vector<double>, const py::dict&,
                    const py::dict&, const py::dict&, uint32_t, uint16_t, uint16_t>(),
           py::kw_only(), py::arg("kind"), py::arg("detail"), py::arg("size_bytes"),
           py::arg("stream"), py::arg("pool"), py::arg("address"), py::arg("settings"),
           py::arg("fractions"), py::arg("ranges"), py::arg("blocks"), py::arg("segment_events"),
           py::arg("allocations"), py::arg("streams"), py::arg("pools"))
      .def("replay", &run, py::kw_only(), py::arg("addresses"), py::arg("total_bytes"),
           py::arg("first_settings") = "{}", py::arg("settings") = py::none(),
           py::arg("capacity_bytes") = py::none(), py::arg("first_fraction") = 1.0,
           py::arg("fraction") = py::none(), py::arg("goes_on") = false,
           py::arg("keeps_totals") = false);
}

} // namespace memtrace
