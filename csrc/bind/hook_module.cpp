// memtrace._hook: starting and stopping the hooks; compiled against one torch.
#include "hook/backward_pass.h"
#include "hook/dispatcher_shortcut.h"
#include "hook/held_tensors.h"
#include "hook/hook.h"
#include "hook/marked_call.h"
#include "hook/marked_step.h"
#include "hook/optimizer_step.h"
#include "hook/other_listeners.h"
#include "hook/plain_tensors.h"
#include "hook/python_objects.h"
#include "hook/python_stack.h"
#include "hook/root_calls.h"
#include "hook/root_scan.h"
#include "hook/thread_state.h"

#include <memory>
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <stdexcept>
#include <string>
#include <torch/csrc/Storage.h>
#include <torch/csrc/autograd/python_variable.h>
#include <utility>

namespace py = pybind11;

namespace memtrace {
namespace {

// How the names of stacks reach text.log.
class ApiTextSink final : public TextSink {
 public:
  explicit ApiTextSink(const RecorderApi& api) : api_(api) {}
  uint32_t intern(std::string_view utf8) noexcept override {
    return api_.intern(api_.recorder, utf8.data(), utf8.size());
  }
  uint32_t next_id(TextKind kind) noexcept override { return api_.next_id(api_.recorder, kind); }
  void text(TextKind kind, uint32_t id, const void* payload, size_t bytes) noexcept override {
    api_.text(api_.recorder, kind, id, payload, bytes);
  }
  void lose(Loss kind) noexcept override { api_.lose(api_.recorder, kind, 1); }

 private:
  RecorderApi api_;
};

struct Stacks {
  Stacks(const RecorderApi& api, std::vector<std::string> runner_prefixes)
      : sink(api), table(StackTable::create(sink, std::move(runner_prefixes))) {}
  ApiTextSink sink;
  std::unique_ptr<StackTable> table;
};
// Those of the newest recording, also after it has stopped; null before the first.
Stacks* g_stacks = nullptr;
bool g_stacks_are_left = false; // no thread is in them, nor will be

// A thread that was still inside a hook when its recording stopped keeps them for good.
void forget_stacks() {
  if (std::exchange(g_stacks_are_left, false))
    delete g_stacks;
  g_stacks = nullptr;
}

// Returns why stacks are not taken, or an empty text.
std::string make_stacks(const RecorderApi& api, const py::object& module_class,
                        std::vector<std::string> runner_prefixes) {
  std::string reason;
  if (!install_code_identity(reason))
    return reason;
  if (!module_class.is_none() && !install_module_identity(module_class.ptr(), reason))
    return reason;
  g_stacks = new Stacks(api, std::move(runner_prefixes));
  return reason;
}

// What the newest recording records, for its pauses.
struct Installed {
  bool root_calls = false, operators = false, cpu = false;
};
Installed g_installed;

void install_allocators() {
  install_cpu_allocator();
  install_pinned_allocator();
}

std::string start(const py::capsule& capsule, bool cpu, bool operators, bool stacks,
                  uint64_t stack_min_bytes, const py::object& module_class,
                  const py::object& tensor_class, std::vector<std::string> runner_prefixes) {
  if (g_kept_recording.load())
    throw std::runtime_error("a recording is already on in this process");
  const auto* api =
      static_cast<const RecorderApi*>(PyCapsule_GetPointer(capsule.ptr(), kRecorderCapsule));
  if (!api)
    throw py::error_already_set();
  static const int fork_handler = pthread_atfork(nullptr, nullptr, forget_in_child);
  (void)fork_handler;
  auto* recording = new Recording; // never freed: see Recording
  recording->api = *api;
  forget_stacks();
  std::string reason;
  if (stacks)
    reason = make_stacks(*api, module_class, std::move(runner_prefixes));
  if (g_stacks) {
    recording->stacks = g_stacks->table.get();
    recording->stack_min_bytes = stack_min_bytes;
  }
  forget_training_threads();
  forget_steps();
  g_kept_recording.store(recording, std::memory_order_release);
  g_recording.store(recording, std::memory_order_release);
  g_installed = {g_stacks != nullptr && !module_class.is_none(), operators, cpu};
  if (g_installed.root_calls)
    install_root_calls(module_class.ptr(), tensor_class.ptr());
  if (operators)
    install_operators();
  if (cpu)
    install_allocators();
  return reason;
}

void remove_all() {
  remove_root_calls();
  remove_operators();
  remove_cpu_allocator();
  remove_pinned_allocator();
}

// From now on the program runs as if it were not recorded, but that the end of what was recorded
// is, so that what is live stays known; and what is rare: segments, failures, marks. False: as
// stop().
bool pause_recording() {
  if (!g_recording.load())
    return true;
  remove_all();
  bool quiet = true;
  {
    py::gil_scoped_release unlocked; // as in stop()
    quiet = quiesce_for_pause();
  }
  pause_cuda_allocator();
  return quiet;
}

// Everything again; CUDA blocks of the pause that are live are listed.
void resume_recording() {
  Recording* recording = g_kept_recording.load();
  if (!recording || g_recording.load())
    return;
  g_recording.store(recording, std::memory_order_release);
  if (g_installed.cpu)
    install_allocators();
  resume_cuda_allocator();
  if (g_installed.operators)
    install_operators();
  if (g_installed.root_calls)
    resume_root_calls();
}

// False: a thread was still inside a hook after 100 ms; nothing is lost, its record may be late.
bool stop() {
  bool quiet = true;
  if (g_kept_recording.load()) {
    py::gil_scoped_release unlocked; // a thread inside a hook may be waiting for the GIL elsewhere
    g_stacks_are_left = quiet = quiesce();
  }
  remove_all();
  uninstall_identity();
  forget_held_tensors();
  forget_optimizers();
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

// Root modules first seen since the last call that are still alive: [(id, module)].
std::vector<std::pair<uint32_t, py::object>> take_new_roots() {
  std::vector<std::pair<uint32_t, py::object>> roots;
  if (!g_stacks)
    return roots;
  StackTable& table = *g_stacks->table;
  for (const uint32_t id : table.take_new_roots())
    if (PyObject* module = table.module_object(id))
      roots.emplace_back(id, py::reinterpret_steal<py::object>(module));
  return roots;
}

uint32_t module_id(const py::object& module) {
  return g_stacks ? g_stacks->table->module_id(module.ptr()) : 0;
}

// The tensors that hold the memory of a tensor, and which part of it each is.
std::vector<std::pair<std::string, py::object>> parts_of(const py::object& tensor) {
  std::vector<std::pair<std::string, py::object>> parts;
  for (const PlainTensor& plain : plain_tensors(tensor.ptr())) {
    PyObject* const wrapped = THPVariable_Wrap(plain.tensor);
    if (!wrapped)
      throw py::error_already_set();
    parts.emplace_back(plain.part, py::reinterpret_steal<py::object>(wrapped));
  }
  return parts;
}

// What lies in the object itself under that name, or None: nothing of its class's is asked.
py::object own_attribute(const py::object& owner, const py::str& name) {
  PyObject* const found = Attributes(owner.ptr()).find(name.ptr());
  return found ? py::reinterpret_borrow<py::object>(found) : py::none();
}

// Where a torch.UntypedStorage lies; 0: nowhere. To ask it for its data_ptr() counts as writing:
// then torch copies what several tensors share until one of them is written (copy on write).
uint64_t storage_address(const py::object& storage) {
  if (!THPStorage_Check(storage.ptr()))
    return 0;
  c10::StorageImpl& impl = *THPStorage_Unpack(storage.ptr()).unsafeGetStorageImpl();
  return reinterpret_cast<uintptr_t>(impl._mutable_data_ptr_no_checks().get());
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
             py::arg("module_class"), py::arg("tensor_class"), py::arg("runner_prefixes"));
  module.def("stop", &stop);
  module.def("pause", &pause_recording);
  module.def("resume", &resume_recording);
  module.def("recording", [] { return g_kept_recording.load() != nullptr; });
  module.def("has_dispatcher_shortcut", &has_dispatcher_shortcut);
  module.def("counts_listeners", [] { return g_callback_count != nullptr; });
  module.def("attach_cuda", &attach_cuda);
  module.def("take_new_roots", &take_new_roots);
  module.def("set_root_callback", [](const py::object& callback) {
    set_root_callback(callback.is_none() ? nullptr : callback.ptr());
  });
  module.def("hold_parameter", [](const py::object& parameter, std::string_view name) {
    hold_parameter(parameter.ptr(), name);
  });
  // What torch.utils.swap_tensors is about to be given, as a mark's description that is none.
  module.def("let_go_of", [](const py::tuple& tensors, const py::dict&) {
    for (const py::handle tensor : tensors)
      let_go_of(tensor.ptr());
    return py::none();
  });
  module.def("parts_of", &parts_of, py::arg("tensor"));
  module.def("own_attribute", &own_attribute, py::arg("owner"), py::arg("name"));
  module.def("storage_address", &storage_address, py::arg("storage"));
  module.def("set_unnamed_callback", [](const py::object& callback) {
    set_unnamed_callback(callback.is_none() ? nullptr : callback.ptr());
  });
  module.def("set_old_state_callback", [](const py::object& callback) {
    set_old_state_callback(callback.is_none() ? nullptr : callback.ptr());
  });
  module.def("set_look",
             [](const py::object& look) { set_look(look.is_none() ? nullptr : look.ptr()); });
  module.def(
      "steps_changed",
      [](const py::object& variable, uint32_t recording) {
        return steps_changed(variable.ptr(), recording);
      },
      py::arg("variable"), py::arg("recording"));
  module.def("module_id", &module_id, py::arg("module"));
  module.def("marked", &marked, py::arg("original"), py::arg("kind"),
             py::arg("describe") = py::none(), py::arg("after") = false);
}
