// The parts of memtrace._core, one per layer.
#pragma once

#include "record/spool.h"

#include <pybind11/pybind11.h>
#include <string>

namespace memtrace {

void register_record(pybind11::module_& module);
void register_store(pybind11::module_& module);
void register_process(pybind11::module_& module);
void register_analyse(pybind11::module_& module);
void register_live(pybind11::module_& module);
void register_replay(pybind11::module_& module);

// Names as in the `lost_events` column.
inline constexpr const char* kLossNames[kLossCount] = {
    "event_no_space", "record_no_space", "text_no_space",  "stack_too_deep",
    "operators_deep", "external_failed", "pool_unnumbered"};

// Names come from the watched program; what is not UTF-8 is shown as such, never refused.
inline pybind11::str to_str(const std::string& text) {
  PyObject* object =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace");
  if (!object)
    throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::str>(object);
}

} // namespace memtrace
