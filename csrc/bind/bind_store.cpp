// Python face of the spool reader: conversion only.
#include "bind/core_bindings.h"
#include "record/clock.h"
#include "store/spool_error.h"
#include "store/spool_reader.h"
#include "store/window_packer.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

namespace py = pybind11;

namespace memtrace {
namespace {

py::dict control_dict(const SpoolReader& reader) {
  const Control& control = reader.control();
  py::dict lost;
  for (uint32_t i = 0; i < kLossCount; ++i)
    lost[kLossNames[i]] = control.lost[i];
  py::dict dict;
  dict["version"] = control.version;
  dict["pid"] = control.pid;
  dict["clock"] = control.clock == Clock::tsc ? "tsc" : "monotonic_ns";
  dict["python_hex"] = control.python_hex;
  dict["start_ticks"] = control.start.ticks;
  dict["start_monotonic_ns"] = control.start.monotonic_ns;
  dict["start_unix_ns"] = control.start_unix_ns;
  dict["complete"] = control.complete != 0;
  dict["exit_status"] =
      control.has_exit_status ? py::object(py::int_(control.exit_status)) : py::object(py::none());
  dict["end_monotonic_ns"] = control.end.monotonic_ns;
  dict["end_unix_ns"] = control.end_unix_ns;
  dict["lost"] = lost;
  return dict;
}

py::list note_list(const std::vector<std::string_view>& notes) {
  py::list list;
  for (const std::string_view note : notes)
    list.append(py::bytes(note.data(), note.size()));
  return list;
}

} // namespace

void register_store(py::module_& module) {
  py::register_exception<SpoolError>(module, "SpoolError", PyExc_ValueError);
  py::class_<SpoolReader>(module, "SpoolReader")
      .def(py::init([](const std::filesystem::path& directory) {
             return std::make_unique<SpoolReader>(directory.string());
           }),
           py::arg("directory"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("control", &control_dict)
      .def_property_readonly("records", &SpoolReader::records)
      .def_property_readonly("logs", [](const SpoolReader& reader) { return reader.logs().size(); })
      .def("process_notes",
           [](const SpoolReader& reader) { return note_list(reader.text().process_notes()); })
      .def("damage",
           [](const SpoolReader& reader) {
             py::dict dict;
             for (const auto& [name, count] : reader.damage())
               dict[py::str(name.data(), name.size())] = count;
             return dict;
           })
      .def(
          "add_clock_anchor",
          [](SpoolReader& reader, uint64_t ticks, uint64_t monotonic_ns) {
            reader.add_clock_anchor({ticks, monotonic_ns});
          },
          py::kw_only(), py::arg("ticks"), py::arg("monotonic_ns"));
  py::class_<WindowPacker>(module, "WindowPacker")
      .def(py::init([](const std::filesystem::path& directory) {
             return std::make_unique<WindowPacker>(directory.string());
           }),
           py::arg("directory"))
      .def(
          "work",
          [](WindowPacker& packer) {
            switch (packer.work()) {
            case WindowPacker::Left::stopped:
              return "stopped";
            case WindowPacker::Left::writer_ended:
              return "writer_ended";
            case WindowPacker::Left::unable:
              break;
            }
            return "unable";
          },
          py::call_guard<py::gil_scoped_release>())
      .def("stop", &WindowPacker::stop)
      .def_property_readonly("windows_packed", &WindowPacker::windows_packed);
  module.def("clock_now", [] {
    const ClockAnchor now = clock_anchor();
    return py::make_tuple(now.ticks, now.monotonic_ns);
  });
}

} // namespace memtrace
