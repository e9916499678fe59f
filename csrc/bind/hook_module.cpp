// memtrace._hook: starting and stopping the hooks; compiled against one torch.
#include "hook/hook.h"
#include "hook/marked_call.h"
#include "hook/python_stack.h"
#include "hook/thread_state.h"

#include <pthread.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <stdexcept>

namespace py = pybind11;

namespace memtrace {
namespace {

uint32_t g_recordings = 0;

// How the names of stacks reach text.log.
class ApiTextSink final : public TextSink {
 public:
  explicit ApiTextSink(const RecorderApi& api) : api_(api) {}
  uint32_t intern(std::string_view text) noexcept override {
    return api_.intern(api_.recorder, text.data(), text.size());
  }
  bool text(TextKind kind, uint32_t id, const void* payload, size_t size) noexcept override {
    return api_.text(api_.recorder, kind, id, payload, size);
  }
  void lose(Loss kind) noexcept override { api_.lose(api_.recorder, kind, 1); }

 private:
  RecorderApi api_;
};

void start(const py::capsule& capsule, bool cpu, bool operators, bool stacks,
           uint64_t stack_min_bytes, const std::string& skip_prefix) {
  if (g_recording.load())
    throw std::runtime_error("a recording is already on in this process");
  const auto* api =
      static_cast<const RecorderApi*>(PyCapsule_GetPointer(capsule.ptr(), kRecorderCapsule));
  if (!api)
    throw py::error_already_set();
  static const int fork_handler = pthread_atfork(nullptr, nullptr, forget_in_child);
  (void)fork_handler;
  auto* recording = new Recording; // never freed: see Recording
  recording->api = *api;
  recording->number = ++g_recordings;
  recording->stack_min_bytes = stack_min_bytes;
  if (stacks)
    recording->stacks = new StackTable(new ApiTextSink(*api), skip_prefix);
  g_recording.store(recording, std::memory_order_release);
  if (operators)
    install_operators();
  if (cpu)
    install_cpu_allocator();
}

// False: a thread was still inside a hook after 100 ms; nothing is lost, its record may be late.
bool stop() {
  bool quiet = true;
  if (g_recording.load()) {
    py::gil_scoped_release unlocked; // a thread inside a hook may be waiting for the GIL elsewhere
    quiet = quiesce();
  }
  remove_operators();
  remove_cpu_allocator();
  return quiet;
}

const char* attach_cuda() {
  switch (attach_cuda_allocator()) {
  case CudaAttach::attached:
    return "attached";
  case CudaAttach::no_cuda_build:
    return "no_cuda_build";
  case CudaAttach::not_initialized:
    return "not_initialized";
  }
  return "unknown";
}

py::object marked(const py::object& original, const std::string& kind, const py::object& describe,
                  bool after) {
  PyObject* call = make_marked_call(original.ptr(), kind.c_str(), describe.ptr(), after);
  if (!call)
    throw py::error_already_set();
  return py::reinterpret_steal<py::object>(call);
}

} // namespace
} // namespace memtrace

PYBIND11_MODULE(_hook, module) {
  using namespace memtrace;
  module.doc() = "The hooks into torch's allocators and operators, and into Python's frames.";
  module.attr("RECORDER_API_VERSION") = kRecorderApiVersion;
  module.def("start", &start, py::arg("recorder_api"), py::kw_only(), py::arg("cpu"),
             py::arg("operators"), py::arg("stacks"), py::arg("stack_min_bytes"),
             py::arg("skip_prefix"));
  module.def("stop", &stop);
  module.def("recording", [] { return g_recording.load() != nullptr; });
  module.def("attach_cuda", &attach_cuda);
  module.def("marked", &marked, py::arg("original"), py::arg("kind"),
             py::arg("describe") = py::none(), py::arg("after") = false);
}
