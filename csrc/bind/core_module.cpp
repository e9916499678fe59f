// memtrace._core: everything native that needs neither torch nor Python frames.
#include "bind/core_bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Recorder, spool reader and the loops of analysis. No torch inside.";
  memtrace::register_record(module);
  memtrace::register_process(module);
  memtrace::register_store(module);
  memtrace::register_analyse(module);
  memtrace::register_live(module);
  memtrace::register_replay(module);
}
