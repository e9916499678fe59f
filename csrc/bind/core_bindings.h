// The parts of memtrace._core, one per layer.
#pragma once

#include <pybind11/pybind11.h>

namespace memtrace {

void register_record(pybind11::module_& module);
void register_store(pybind11::module_& module);
void register_process(pybind11::module_& module);
void register_analyse(pybind11::module_& module);
void register_replay(pybind11::module_& module);

} // namespace memtrace
