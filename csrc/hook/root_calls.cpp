#include "hook/root_calls.h"

#include "hook/backward_pass.h"
#include "hook/call_tensors.h"
#include "hook/module_storages.h"
#include "hook/notes.h"
#include "hook/outermost_call.h"
#include "hook/own_call.h"
#include "hook/python_stack.h"
#include "hook/step_records.h"
#include "record/clock.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/graph_task.h>
#include <unordered_map>
#include <utility>

namespace memtrace {
namespace {

CallClasses g_classes;

// ---- looks at the weights -----------------------------------------------------------------------

// Of a program's time, at most one part in so many goes into them.
constexpr uint64_t kLookShare = 1000;
PyObject* g_look = nullptr;
uint64_t g_look_due_ns = 0;
constexpr uint64_t kLooking = UINT64_MAX; // some thread is
// A model that has other storages (half(), load_state_dict, parameter.data = ...) is looked at at
// once; one that gets them all the time has its share of the time only.
constexpr uint32_t kMostMoves = 32;
// To tell costs time too: one part in so many of the program's, and some ahead, so that one that
// makes few calls is told of every move.
constexpr uint64_t kCompareShare = 1000;
constexpr uint64_t kCompareAheadNs = 250'000;
uint64_t g_began_ns = 0, g_compared_ns = 0;

struct CalledModel {
  uint64_t storages = 0; // when they were compared last
  uint32_t moves = 0;
  bool called_twice = false;
};
std::unordered_map<uint32_t, CalledModel> g_called; // by module id
constexpr size_t kLeastPrune = 64;
size_t g_prune_called_at = kLeastPrune;

// A program may make a module for each call: those that are gone are forgotten.
void prune_called(StackTable& stacks) {
  std::erase_if(g_called,
                [&](const auto& entry) { return !OwnedObject(stacks.module_object(entry.first)); });
  g_prune_called_at = 2 * g_called.size() + kLeastPrune;
}

// Whether this call is the second one of a model, or what it holds has moved since they were
// compared last.
bool is_new_to_looks(PyObject* module, uint32_t id, uint64_t now_ns) {
  const auto [call, first] = g_called.try_emplace(id);
  CalledModel& model = call->second;
  if (model.called_twice && g_compared_ns > kCompareAheadNs + (now_ns - g_began_ns) / kCompareShare)
    return false;
  const uint64_t before = std::exchange(model.storages, storages_of(module, g_classes));
  g_compared_ns += clock_ns(CLOCK_MONOTONIC) - now_ns;
  if (first)
    return false;
  if (!std::exchange(model.called_twice, true))
    return true;
  if (model.storages == before || model.moves == kMostMoves)
    return false;
  ++model.moves;
  return true;
}

// The module that is to be looked at before this call, None for all, or null: nothing.
PyObject* due_look(PyObject* module, const Recording* recording) {
  if (!g_look || !recording->stacks || g_look_due_ns == kLooking)
    return nullptr;
  uint32_t id = 0;
  if (const HookScope scope; scope && &scope.recording() == recording)
    id = recording->stacks->root_id(module);
  const uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
  if (g_called.size() >= g_prune_called_at)
    prune_called(*recording->stacks);
  const bool is_new = id != 0 && is_new_to_looks(module, id, now_ns);
  if (now_ns >= g_look_due_ns)
    return Py_None;
  return is_new ? module : nullptr;
}

// False: a signal handler of the program raised, and the call must not happen.
bool look_at(PyObject* which) {
  g_look_due_ns = kLooking;
  const uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
  const OwnedObject look(Py_NewRef(g_look));
  const OwnedObject done(call_own(look.get(), which));
  const uint64_t end_ns = clock_ns(CLOCK_MONOTONIC);
  g_look_due_ns = end_ns + kLookShare * (end_ns - start_ns);
  return PyErr_Occurred() == nullptr;
}

// ---- calls --------------------------------------------------------------------------------------

struct Step {
  const Recording* recording =
      nullptr;         // its hooks may be turned off at any time; it lives for ever
  uint64_t number = 0; // 0: the call is none
  bool has_cache = false;
};

// Of the call that is described at this moment, under the GIL. One for all calls, so that room and
// names are kept. Never freed: threads may end after static destructors.
struct DescribedTensors {
  CallTensors inputs{g_classes}, caches{g_classes}, outputs{g_classes};
};
DescribedTensors& described() {
  static auto* const tensors = new DescribedTensors;
  return *tensors;
}

const CallTensors& inputs_of(const ModuleCall& call) {
  CallTensors& inputs = described().inputs;
  inputs.read_arguments(call.module(), call.positional(), call.positional_count(), call.names);
  return inputs;
}

// False: the call must not happen (look_at).
bool begin(Step& step, const ModuleCall& call) {
  try {
    g_classes.renew();
    const CallTensors& inputs = inputs_of(call);
    if (inputs.only_stand_ins())
      return true;
    if (PyObject* which = due_look(call.module(), step.recording)) {
      if (!look_at(which))
        return false;
      inputs_of(call); // anew: other threads may have run meanwhile
    }
    step.has_cache = inputs.saw_cache();
    const RecorderApi& api = step.recording->api;
    step.number = api.next_id(api.recorder, TextKind::step);
    const PyTypeObject* root_class = Py_TYPE(called_module(call.module(), g_classes));
    write_step_begin(step.recording, step.number, root_class->tp_name, inputs);
  } catch (...) {
    lose_step_record(step.recording); // no memory
  }
  return true;
}

void end(const Step& step, const ModuleCall& call, PyObject* result) {
  PyObject *error = nullptr, *value = nullptr, *traceback = nullptr;
  if (!result)
    PyErr_Fetch(&error, &value, &traceback);
  try {
    g_classes.renew();
    auto& [inputs, caches, outputs] = described();
    caches.clear();
    if (step.has_cache)
      caches.read_caches(call.module(), call.positional(), call.positional_count(), call.names);
    outputs.clear();
    if (result)
      outputs.read_result(result, caches);
    write_step_end(step.recording, step.number, error, outputs, caches);
  } catch (...) {
    lose_step_record(step.recording);
  }
  if (!result)
    PyErr_Restore(error, value, traceback);
}

void mark(const Recording* recording, const char* kind) noexcept {
  const HookScope scope(g_kept_recording);
  if (scope && &scope.recording() == recording)
    write_mark(scope, kind);
}

PyObject* on_root_call(const ModuleCall& call) {
  Step step{g_recording.load(std::memory_order_acquire)};
  if (!step.recording)
    return call.go_on();
  if (c10::GradMode::is_enabled()) // one that only infers has no gradients
    note_training_thread(record_function_thread());
  PyObject* result = nullptr;
  if (torch::autograd::get_current_graph_task_id() != -1) {
    mark(step.recording, "recompute_begin");
    result = call.go_on();
    mark(step.recording, "recompute_end");
  } else if (begin(step, call)) {
    result = call.go_on();
    if (step.number != 0)
      end(step, call, result);
  }
  return result;
}

} // namespace

bool install_root_calls(PyObject* module_class, PyObject* tensor_class) {
  if (!PyType_Check(module_class) || !PyType_Check(tensor_class))
    return false;
  if (!g_classes.tensor) {
    g_classes.tensor = reinterpret_cast<PyTypeObject*>(Py_NewRef(tensor_class));
    g_classes.module = reinterpret_cast<PyTypeObject*>(Py_NewRef(module_class));
  }
  g_began_ns = clock_ns(CLOCK_MONOTONIC);
  g_compared_ns = 0;
  g_called.clear();
  g_prune_called_at = kLeastPrune;
  return resume_root_calls();
}

bool resume_root_calls() {
  g_look_due_ns = 0;
  return g_classes.module != nullptr &&
         watch_outermost_calls(reinterpret_cast<PyObject*>(g_classes.module), on_root_call);
}

void remove_root_calls() noexcept {
  unwatch_outermost_calls();
}

void set_look(PyObject* look) {
  PyObject* old = g_look;
  g_look = look ? Py_NewRef(look) : nullptr;
  Py_XDECREF(old);
}

} // namespace memtrace
