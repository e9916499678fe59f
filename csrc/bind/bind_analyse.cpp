// Python face of the conversion of a spool: batches of columns as numpy arrays, without copies.
#include "analyse/conversion.h"
#include "bind/core_bindings.h"

#include <memory>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

namespace py = pybind11;

namespace memtrace {
namespace {

constexpr const char* kTypeNames[] = {"int64", "uint64", "int32", "bool", "string", "int64_list"};

// The vector's memory as an array that owns it.
template <typename Value> py::object to_array(std::vector<Value>&& values) {
  auto owner = std::make_unique<std::vector<Value>>(std::move(values));
  Value* data = owner->data();
  const auto size = static_cast<py::ssize_t>(owner->size());
  py::capsule capsule(owner.release(), [](void* p) { delete static_cast<std::vector<Value>*>(p); });
  return py::array_t<Value>(size, data, capsule);
}

struct PyColumn {
  std::string name;
  const char* kind;
  py::object values, validity = py::none(), dictionary = py::none(), offsets = py::none();
};

struct PyBatch {
  std::string dataset;
  size_t rows;
  bool ends_part;
  py::list columns;
};

PyColumn to_column(ColumnData data) {
  PyColumn column{data.name, kTypeNames[static_cast<size_t>(data.type)], py::none()};
  if (data.type == ColumnType::string) {
    column.values = to_array(std::move(data.codes));
    py::list dictionary;
    for (const std::string& text : data.dictionary)
      dictionary.append(to_str(text));
    column.dictionary = std::move(dictionary);
  } else {
    column.values = to_array(std::move(data.words));
  }
  if (data.type == ColumnType::int64_list)
    column.offsets = to_array(std::move(data.offsets));
  if (!data.validity.empty())
    column.validity = to_array(std::move(data.validity));
  return column;
}

py::list to_list(std::vector<Batch> batches) {
  py::list list;
  for (Batch& batch : batches) {
    PyBatch converted{batch.dataset, batch.rows, batch.ends_part, py::list()};
    for (ColumnData& data : batch.columns)
      converted.columns.append(to_column(std::move(data)));
    list.append(std::move(converted));
  }
  return list;
}

py::list advance(Conversion& conversion) {
  std::vector<Batch> batches;
  {
    const py::gil_scoped_release release;
    batches = conversion.advance();
  }
  return to_list(std::move(batches));
}

py::list advance_followed(FollowedConversion& conversion, bool ended, uint64_t most_ns) {
  std::vector<Batch> batches;
  {
    const py::gil_scoped_release release;
    batches = conversion.advance(ended, most_ns);
  }
  return to_list(std::move(batches));
}

template <typename AnyConversion> py::dict totals(AnyConversion& conversion) {
  DatasetRows& rows = conversion.rows();
  const Lifetimes& lifetimes = rows.lifetimes();
  const Reconciliation& reconciliation = rows.reconciliation();
  py::dict dict, oddities, devices;
  for (const auto& [name, count] : rows.oddities(conversion.order_gaps()))
    oddities[name] = count;
  for (const DeviceCode code : lifetimes.devices()) {
    const DeviceTally tally = lifetimes.tally(code);
    py::dict device;
    device["allocated_bytes"] = tally.current.allocated;
    device["active_bytes"] = tally.current.active;
    device["reserved_bytes"] = tally.current.reserved;
    device["requested_bytes"] = tally.current.requested;
    device["peak_allocated_bytes"] = tally.peak.allocated;
    device["peak_active_bytes"] = tally.peak.active;
    device["peak_reserved_bytes"] = tally.peak.reserved;
    device["peak_requested_bytes"] = tally.peak.requested;
    device["allocations"] = tally.allocations;
    device["frees"] = tally.frees;
    devices[to_str(rows.names()[rows.labels().device(code)])] = device;
  }
  py::list paused;
  for (const PausedInterval& interval : rows.pauses().intervals())
    paused.append(py::make_tuple(interval.start_ns, interval.end_ns == kNull
                                                        ? py::object(py::none())
                                                        : py::object(py::int_(interval.end_ns))));
  py::dict paused_peaks;
  for (const auto& [code, bytes] : rows.pauses().peaks())
    paused_peaks[to_str(rows.names()[rows.labels().device(code)])] = bytes;
  dict["events"] = lifetimes.next_seq();
  dict["unmatched_frees"] = lifetimes.counts().unmatched_frees;
  dict["unscanned_models"] = rows.unscanned_models();
  dict["unknown_text_ids"] = rows.names().text().unknown_ids();
  dict["threads"] = lifetimes.threads();
  dict["last_time_ns"] = rows.reading().last_time_ns();
  dict["oddities"] = oddities;
  dict["devices"] = devices;
  dict["paused"] = paused;
  dict["paused_peaks"] = paused_peaks;
  dict["settings"] = to_str(rows.settings_text());
  dict["compared"] = reconciliation.compared();
  dict["differing"] = reconciliation.differing();
  dict["mismatch_bytes"] = reconciliation.mismatch_bytes();
  dict["reconcile_note"] = to_str(reconciliation.note());
  return dict;
}

// device -> blocks as (segment id, address, size, state, requested bytes); 0 free, 1 allocated,
// 2 awaiting its free. For tests against torch.cuda.memory_snapshot().
py::dict layout(Conversion& conversion) {
  DatasetRows& rows = conversion.rows();
  py::dict dict;
  for (const DeviceCode code : rows.lifetimes().devices()) {
    const BlockMirror* mirror = rows.lifetimes().mirror(code);
    if (!mirror)
      continue;
    py::list blocks;
    for (const auto& [address, block] : mirror->blocks()) {
      const SegmentRange* range = mirror->segments().find(address);
      blocks.append(py::make_tuple(range ? range->id : 0, address, block.size_bytes,
                                   static_cast<int>(block.state), block.requested_bytes));
    }
    dict[to_str(rows.names()[rows.labels().device(code)])] = blocks;
  }
  return dict;
}

} // namespace

void register_analyse(py::module_& module) {
  py::class_<PyColumn>(module, "Column")
      .def_readonly("name", &PyColumn::name)
      .def_readonly("kind", &PyColumn::kind)
      .def_readonly("values", &PyColumn::values)
      .def_readonly("validity", &PyColumn::validity)
      .def_readonly("dictionary", &PyColumn::dictionary)
      .def_readonly("offsets", &PyColumn::offsets);
  py::class_<PyBatch>(module, "Batch")
      .def_readonly("dataset", &PyBatch::dataset)
      .def_readonly("rows", &PyBatch::rows)
      .def_readonly("ends_part", &PyBatch::ends_part)
      .def_readonly("columns", &PyBatch::columns);
  py::class_<Conversion>(module, "Conversion")
      .def(py::init<const SpoolReader&, size_t, size_t>(), py::arg("reader"), py::kw_only(),
           py::arg("batch_rows") = 131072, py::arg("part_rows") = 524288, py::keep_alive<1, 2>())
      .def("advance", &advance)
      .def_property_readonly("finished", &Conversion::finished)
      .def_property_readonly("consumed", &Conversion::consumed)
      .def("totals", &totals<Conversion>)
      .def("layout", &layout);
  py::class_<FollowedConversion>(module, "FollowedConversion")
      .def(py::init([](const std::filesystem::path& directory, size_t batch_rows, size_t part_rows,
                       uint64_t settle_ns) {
             return std::make_unique<FollowedConversion>(directory.string(), batch_rows, part_rows,
                                                         settle_ns);
           }),
           py::arg("directory"), py::kw_only(), py::arg("batch_rows") = 131072,
           py::arg("part_rows") = 131072, py::arg("settle_ns") = FollowedConversion::kSettleNs,
           py::call_guard<py::gil_scoped_release>())
      .def("advance", &advance_followed, py::kw_only(), py::arg("ended"), py::arg("most_ns"))
      .def("take_all",
           [](FollowedConversion& conversion) { return to_list(conversion.take_all()); })
      .def("compact", &FollowedConversion::compact, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("finished", &FollowedConversion::finished)
      .def_property_readonly("idle", &FollowedConversion::idle)
      .def_property_readonly("consumed", &FollowedConversion::consumed)
      .def("totals", [](FollowedConversion& conversion) {
        py::dict dict = totals(conversion);
        dict["missing_chunks"] = conversion.missing_chunks();
        return dict;
      });
}

} // namespace memtrace
