// Python face of what a running process holds: conversion only.
#include "analyse/live.h"
#include "bind/core_bindings.h"

#include <memory>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>
#include <stdexcept>

namespace py = pybind11;

namespace memtrace {
namespace {

py::object word(const Live& live, StringId id) {
  return id == StringId::null ? py::object(py::none()) : py::object(to_str(live.names()[id]));
}

DeviceCode code_of(Live& live, const std::string& device) {
  for (const DeviceCode code : live.devices())
    if (live.names()[live.labels().device(code)] == device)
      return code;
  throw std::invalid_argument("no events of device " + device);
}

LiveGrouping grouping_of(const std::string& by) {
  if (by == "category")
    return LiveGrouping::category;
  if (by == "module")
    return LiveGrouping::module;
  if (by == "operator")
    return LiveGrouping::op;
  if (by == "source")
    return LiveGrouping::source;
  throw std::invalid_argument("no grouping by " + by);
}

bool advance(Live& live, bool ended, uint64_t most_ns) {
  const py::gil_scoped_release release;
  return live.advance(ended, most_ns);
}

py::dict state(const Live& live) {
  const SpoolFollower& follower = live.follower();
  const Control& control = follower.control();
  py::dict dict, lost;
  for (uint32_t i = 0; i < kLossCount; ++i)
    lost[kLossNames[i]] = control.lost[i];
  lost["order_gaps"] = follower.order_gaps();
  lost["missing_chunks"] = follower.missing_chunks();
  lost["missed_frees"] = live.counts().missed_frees;
  lost["bad_records"] = live.bad_records();
  dict["lost"] = lost;
  dict["pid"] = control.pid;
  dict["complete"] = control.complete != 0;
  dict["exit_status"] =
      control.has_exit_status ? py::object(py::int_(control.exit_status)) : py::object(py::none());
  dict["events"] = live.events();
  dict["records"] = live.records();
  dict["last_time_ns"] = live.last_time_ns();
  dict["paused"] = live.paused();
  dict["stage"] = word(live, live.stage());
  dict["step"] = live.step().number;
  dict["step_name"] = word(live, live.step().name);
  dict["step_running"] = live.step().running;
  dict["read_bytes"] = follower.bytes_read();
  dict["published_bytes"] = follower.bytes_published();
  return dict;
}

py::dict devices(Live& live) {
  py::dict dict;
  for (const DeviceCode code : live.devices()) {
    const LiveOwners::Device& totals = live.owners().device(code);
    const DeviceTally tally = live.tally(code);
    py::dict device;
    device["allocated_bytes"] = totals.now.allocated;
    device["active_bytes"] = totals.now.active;
    device["reserved_bytes"] = totals.now.reserved;
    device["peak_allocated_bytes"] = totals.peak.allocated;
    device["peak_time_ns"] = totals.peak_place.time_ns == kNull
                                 ? py::object(py::none())
                                 : py::object(py::int_(totals.peak_place.time_ns));
    device["peak_reserved_bytes"] = totals.most_reserved;
    device["external_bytes"] = totals.external.bytes;
    device["total_bytes"] = live.device_bytes(code);
    device["allocations"] = tally.allocations;
    device["frees"] = tally.frees;
    device["ooms"] = tally.ooms;
    dict[to_str(live.names()[live.labels().device(code)])] = device;
  }
  return dict;
}

py::list groups(Live& live, const std::string& device, const std::string& by) {
  py::list list;
  for (const LiveGroup& group : live.groups(code_of(live, device), grouping_of(by)))
    list.append(py::make_tuple(word(live, group.key), group.now.bytes, group.now.blocks,
                               group.peak.bytes, group.peak.blocks));
  return list;
}

py::tuple curve(Live& live, const std::string& device, size_t points) {
  py::list allocated, reserved;
  for (const Timeline::Values& values : live.curve(code_of(live, device), points)) {
    allocated.append(values[0]);
    reserved.append(values[2]);
  }
  return py::make_tuple(allocated, reserved);
}

py::list process_notes(const Live& live) {
  py::list list;
  for (const std::string_view note : live.follower().text().process_notes())
    list.append(py::bytes(note.data(), note.size()));
  return list;
}

} // namespace

void register_live(py::module_& module) {
  py::class_<Live>(module, "Live")
      .def(py::init([](const std::filesystem::path& directory) {
             return std::make_unique<Live>(directory.string());
           }),
           py::arg("directory"), py::call_guard<py::gil_scoped_release>())
      .def("advance", &advance, py::kw_only(), py::arg("ended") = false,
           py::arg("most_ns") = 50'000'000)
      .def("state", &state)
      .def("devices", &devices)
      .def("groups", &groups, py::arg("device"), py::arg("by"))
      .def("curve", &curve, py::arg("device"), py::arg("points"))
      .def("process_notes", &process_notes);
}

} // namespace memtrace
