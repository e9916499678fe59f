// memtrace._core.Recorder: the recorder as Python sees it, for everything that is not hot.
#include "bind/core_bindings.h"
#include "record/process_end.h"
#include "record/recorder.h"
#include "record/recorder_api.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

namespace py = pybind11;

namespace memtrace {
namespace {

Recorder* recorder_of(void* recorder) noexcept {
  return static_cast<Recorder*>(recorder);
}

RecorderApi make_api(Recorder* recorder) {
  RecorderApi api{};
  api.version = kRecorderApiVersion;
  api.recorder = recorder;
  api.acquire_log = [](void* r) noexcept { return recorder_of(r)->acquire_log(); };
  api.release_log = [](void* r, ThreadLog* log) noexcept { recorder_of(r)->release_log(log); };
  api.flush = [](void* r, ThreadLog* log) noexcept { recorder_of(r)->flush(log); };
  api.intern = [](void* r, const char* text, size_t size) noexcept {
    return recorder_of(r)->intern({text, size});
  };
  api.text = [](void* r, TextKind kind, uint32_t id, const void* payload, size_t size) noexcept {
    return recorder_of(r)->text(kind, id, payload, size);
  };
  api.next_id = [](void* r, TextKind kind) noexcept { return recorder_of(r)->next_id(kind); };
  api.lose = [](void* r, Loss kind, uint64_t count) noexcept { recorder_of(r)->lose(kind, count); };
  return api;
}

// Keeps recorder and table together. After close() both are leaked on purpose: another thread may
// be inside a hook that still looks at them; about a kilobyte per recording (Recorder::close).
class PyRecorder {
 public:
  PyRecorder(const std::string& directory, uint64_t most_records_bytes)
      : recorder_(new Recorder(directory, PY_VERSION_HEX, most_records_bytes)),
        api_(new RecorderApi(make_api(recorder_))) {}

  py::capsule api() const { return py::capsule(api_, kRecorderCapsule); }
  Recorder& recorder() const { return *recorder_; }

 private:
  Recorder* recorder_;
  RecorderApi* api_;
};

const char* loss_name(Loss kind) {
  switch (kind) {
  case Loss::event_no_space:
    return "event_no_space";
  case Loss::record_no_space:
    return "record_no_space";
  case Loss::text_no_space:
    return "text_no_space";
  case Loss::stack_too_deep:
    return "stack_too_deep";
  case Loss::operators_deep:
    return "operators_deep";
  case Loss::external_failed:
    return "external_failed";
  case Loss::pool_unnumbered:
    return "pool_unnumbered";
  case Loss::count:
    break;
  }
  return "unknown";
}

py::dict lost(const PyRecorder& self) {
  py::dict by_kind;
  for (uint32_t kind = 0; kind < kLossCount; ++kind)
    by_kind[loss_name(static_cast<Loss>(kind))] = self.recorder().lost(static_cast<Loss>(kind));
  return by_kind;
}

void note(const PyRecorder& self, int action, const std::string& name, const std::string& text,
          const std::string& target, const std::string& source, const std::string& reason,
          uint64_t value, uint64_t value2, int device, uint32_t thread) {
  Recorder& recorder = self.recorder();
  Note note{};
  note.value = value;
  note.value2 = value2;
  note.name = recorder.intern(name);
  note.text = recorder.intern(text);
  note.target = recorder.intern(target);
  note.source = recorder.intern(source);
  note.reason = recorder.intern(reason);
  note.tail = {thread, 0, static_cast<DeviceCode>(device), static_cast<Action>(action)};
  recorder.note(note);
}

void event(const PyRecorder& self, int action, int device, int memory_or_pool, uint64_t address,
           uint64_t size_bytes, uint64_t stream) {
  AllocatorEvent event{};
  event.address = address;
  event.size_bytes = size_bytes;
  event.stream = stream;
  event.tail = {0, static_cast<uint16_t>(memory_or_pool), static_cast<DeviceCode>(device),
                static_cast<Action>(action)};
  self.recorder().event(event);
}

template <class Enum> void constant(py::module_& module, const char* name, Enum value) {
  module.attr(name) = static_cast<int>(value);
}

} // namespace

void register_record(py::module_& module) {
  py::class_<PyRecorder>(module, "Recorder", "The spool that this process writes.")
      .def(py::init([](const std::filesystem::path& spool_dir, uint64_t most_records_bytes) {
             return std::make_unique<PyRecorder>(spool_dir.string(), most_records_bytes);
           }),
           py::arg("spool_dir"), py::kw_only(), py::arg("most_records_bytes") = 0)
      .def_property_readonly("api", &PyRecorder::api)
      .def_property_readonly(
          "most_records_bytes",
          [](const PyRecorder& self) { return self.recorder().most_records_bytes(); })
      .def("intern",
           [](PyRecorder& self, const std::string& text) { return self.recorder().intern(text); })
      .def("text",
           [](PyRecorder& self, int kind, uint32_t id, const py::bytes& payload) {
             const std::string_view bytes = payload;
             return self.recorder().text(static_cast<TextKind>(kind), id, bytes.data(),
                                         bytes.size());
           })
      .def("process_note",
           [](PyRecorder& self, std::string_view json) {
             return self.recorder().text(TextKind::process, 0, json.data(), json.size());
           })
      .def("tensor_note",
           [](PyRecorder& self, std::string_view json) {
             return self.recorder().text(TextKind::tensor, 0, json.data(), json.size());
           })
      .def("note", &note, py::arg("action"), py::arg("name") = "", py::arg("text") = "",
           py::arg("target") = "", py::arg("source") = "", py::arg("reason") = "",
           py::arg("value") = 0, py::arg("value2") = 0, py::arg("device") = 0,
           py::arg("thread") = 0)
      .def("next_step", [](PyRecorder& self) { return self.recorder().next_id(TextKind::step); })
      .def("thread_id", [](PyRecorder& self) { return self.recorder().thread_id(); })
      .def("event", &event, py::arg("action"), py::kw_only(), py::arg("device"),
           py::arg("memory_or_pool") = 0, py::arg("address"), py::arg("size_bytes"),
           py::arg("stream") = 0)
      .def("set_exit_status",
           [](PyRecorder& self, int status) { self.recorder().set_exit_status(status); })
      .def("note_exit_status", [](PyRecorder& self) { note_exit_status_in(&self.recorder()); })
      .def("lost", &lost)
      .def("ticks", [](PyRecorder&) { return ticks_after(); })
      .def(
          "close", [](PyRecorder& self, bool quiet) { self.recorder().close(quiet); },
          py::arg("quiet") = true)
      .def("abandon", [](PyRecorder& self) { self.recorder().abandon(); });

  constant(module, "ACTION_alloc", Action::alloc);
  constant(module, "ACTION_free_requested", Action::free_requested);
  constant(module, "ACTION_free_completed", Action::free_completed);
  constant(module, "ACTION_segment_alloc", Action::segment_alloc);
  constant(module, "ACTION_preexisting", Action::preexisting);
  constant(module, "ACTION_external", Action::external);
  constant(module, "ACTION_mark", Action::mark);
  constant(module, "ACTION_sample", Action::sample);
  constant(module, "ACTION_stage_begin", Action::stage_begin);
  constant(module, "ACTION_stage_end", Action::stage_end);
  constant(module, "ACTION_step_begin", Action::step_begin);
  constant(module, "ACTION_step_end", Action::step_end);
  constant(module, "KIND_name", TextKind::name);
  constant(module, "KIND_stack", TextKind::stack);
  constant(module, "KIND_module", TextKind::module);
  constant(module, "KIND_module_path", TextKind::module_path);
  constant(module, "KIND_pool", TextKind::pool);
  constant(module, "KIND_thread", TextKind::thread);
  constant(module, "KIND_tensor", TextKind::tensor);
  constant(module, "KIND_process", TextKind::process);
  constant(module, "KIND_source_map", TextKind::source_map);
  constant(module, "MEMORY_host", Memory::host);
  constant(module, "MEMORY_pinned", Memory::pinned);
  constant(module, "MEMORY_mapped", Memory::mapped);
  constant(module, "MEMORY_shared", Memory::shared);
}

} // namespace memtrace
