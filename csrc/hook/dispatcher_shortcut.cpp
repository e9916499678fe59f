#include "hook/dispatcher_shortcut.h"

#include "hook/factory_operators.h"
#include "hook/operators.h"
#include "hook/other_listeners.h"
#include "hook/shared_library.h"
#include "hook/view_operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/result_type.h>
#include <c10/core/AutogradState.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <exception>
#include <future>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace memtrace {
namespace {

using StepCallbacks = std::optional<at::StepCallbacks>;
using Schema = at::RecordFunction::schema_ref_t;

// ---- torch's own functions ----------------------------------------------------------------------

// Some are private: no header gives their types, but their names do. `Keys` is DispatchKey, in
// newer torches with a DispatchKeySet.
using Get = StepCallbacks (*)(at::RecordScope);
using Destroy = void (*)(at::RecordFunction*);
template <class... Keys> using Run = void (*)(at::RecordFunction&, Schema, Keys...);
template <class... Keys> using SequenceNumber = int64_t (*)(Keys...);

constexpr std::string_view kGetName = "_ZN2at27getStepCallbacksUnlessEmptyENS_11RecordScopeE";
constexpr std::string_view kDestroyName = "_ZN2at14RecordFunctionD1Ev";
constexpr std::string_view kRunName = // then the keys
    "_ZN3c1010Dispatcher17runRecordFunctionERN2at14RecordFunctionE"
    "St17reference_wrapperIKNS_14FunctionSchemaEE";
constexpr std::string_view kSequenceNumberName = // likewise
    "_ZN3c1010Dispatcher38sequenceNumberForRunningRecordFunctionE";
constexpr std::string_view kKey = "NS_11DispatchKeyE";
constexpr std::string_view kKeyAndSet = "NS_11DispatchKeyENS_14DispatchKeySetE";

struct Torch {
  uintptr_t get = 0, destroy = 0, run = 0, sequence_number = 0;
  std::string_view run_name;   // with its keys
  bool passes_key_set = false; // to both that take keys
};
// Constant once the shortcut has been prepared.
Torch g_torch;
at::RecordFunctionCallback::StartCallback g_callback = nullptr;

StepCallbacks torch_get(at::RecordScope scope) {
  return at_address<Get>(g_torch.get)(scope);
}
void torch_destroy(at::RecordFunction* function) {
  at_address<Destroy>(g_torch.destroy)(function);
}
template <class... Keys> void torch_run(at::RecordFunction& function, Schema schema, Keys... keys) {
  at_address<Run<Keys...>>(g_torch.run)(function, schema, keys...);
}

// ---- who calls ----------------------------------------------------------------------------------

// Where a call comes from, and what it is: a word of a cache.
enum class Caller : uint8_t { not_known, other, an_operator, a_view, a_factory };

// at::_ops::...::call of libtorch_cpu: where the dispatcher is compiled into, once per operator.
struct OperatorCode {
  uintptr_t begin, end;
  Caller kind;
};
std::vector<OperatorCode> g_operator_code; // sorted; constant like g_torch

// "view" of "_ZN2at4_ops4view4callE..."; empty: another function's name.
std::string_view operator_class(std::string_view name) noexcept {
  constexpr std::string_view kSpace = "_ZN2at4_ops", kCall = "4callE";
  if (!name.starts_with(kSpace))
    return {};
  name.remove_prefix(kSpace.size());
  size_t size = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), size);
  name.remove_prefix(static_cast<size_t>(end - name.data()));
  if (error != std::errc{} || size > name.size() || !name.substr(size).starts_with(kCall))
    return {};
  return name.substr(0, size);
}

Caller kind_of(std::string_view operator_class) noexcept {
  if (only_makes_view(operator_class))
    return Caller::a_view;
  return is_factory_class(operator_class) ? Caller::a_factory : Caller::an_operator;
}

// In a function: where it will return to.
#define MEMTRACE_CALLER                                                                            \
  reinterpret_cast<uintptr_t>(__builtin_extract_return_addr(__builtin_return_address(0)))

constexpr uintptr_t kCallerShift = 56; // above any address
constexpr size_t kCachedCallers = 2048;
std::array<std::atomic<uintptr_t>, kCachedCallers> g_callers;

inline std::atomic<uintptr_t>& cached_caller(uintptr_t address) noexcept {
  return g_callers[address / 4 % kCachedCallers];
}

inline Caller known_caller(uintptr_t address) noexcept {
  constexpr uintptr_t kAddress = (uintptr_t{1} << kCallerShift) - 1;
  const uintptr_t cached = cached_caller(address).load(std::memory_order_relaxed);
  return (cached & kAddress) == address ? static_cast<Caller>(cached >> kCallerShift)
                                        : Caller::not_known;
}

Caller find_caller(uintptr_t address) noexcept {
  const auto after = std::ranges::upper_bound(g_operator_code, address, {}, &OperatorCode::begin);
  Caller found = Caller::other;
  if (after != g_operator_code.begin() && address < std::prev(after)->end)
    found = std::prev(after)->kind;
  cached_caller(address).store(address | static_cast<uintptr_t>(found) << kCallerShift,
                               std::memory_order_relaxed);
  return found;
}

// ---- the shortcut -------------------------------------------------------------------------------

// Where torch keeps what this thread has switched on. Asked for once: each time would be two calls.
struct Switches {
  const c10::AutogradState* autograd = nullptr;
  const c10::impl::PODLocalDispatchKeySet* keys = nullptr;
};
__attribute__((tls_model("initial-exec"))) thread_local Switches t_switches;

[[gnu::noinline]] void find_switches() noexcept {
  t_switches = {&c10::AutogradState::get_tls_state(), &c10::impl::raw_local_dispatch_key_set};
}

// Python's own tensors and modes, and transformations of functions: a view is then what they make
// of it.
bool others_make_views(const c10::impl::PODLocalDispatchKeySet& keys) noexcept {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet kPython{DispatchKey::Python, DispatchKey::PythonTLSSnapshot};
  constexpr c10::DispatchKeySet kOthers{
      DispatchKey::FuncTorchDynamicLayerFrontMode, DispatchKey::FuncTorchDynamicLayerBackMode,
      DispatchKey::FuncTorchBatched, DispatchKey::FuncTorchVmapMode, DispatchKey::Functionalize};
  if ((keys.included() | keys.excluded()).has_any(kPython)) [[unlikely]] {
    g_views_may_allocate.store(true, std::memory_order_relaxed);
    return true;
  }
  return keys.included().has_any(kOthers);
}

// No node of autograd will be made, and nothing allocated.
inline bool can_leave_out_view() noexcept {
  const auto& [autograd, keys] = t_switches;
  return !autograd->get_grad_mode() && !g_views_may_allocate.load(std::memory_order_relaxed) &&
         !others_make_views(*keys);
}

// A factory inside an operator that takes it in: where memory changes, that one is the innermost.
[[gnu::noinline]] bool is_taken_in(const ThreadState& state) noexcept {
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  const OperatorCall& around = state.calls[state.depth];
  return around.function > here &&
         state.recording.load(std::memory_order_relaxed) ==
             g_recording.load(std::memory_order_relaxed) &&
         takes_in_factories(around, t_switches.autograd->get_grad_mode());
}

inline bool can_leave_out_factory() noexcept {
  const ThreadState* const state = t_state;
  return state != nullptr && state->depth != 0 && is_taken_in(*state);
}

// An empty list is still one: the operator is to be observed.
inline StepCallbacks empty_list(at::RecordScope scope) {
  return std::make_optional<at::StepCallbacks>(0, scope);
}

// What an operator gets where nobody else listens.
inline StepCallbacks our_list(at::RecordScope scope, Caller from) {
  if (from == Caller::a_view ? can_leave_out_view()
                             : from == Caller::a_factory && can_leave_out_factory())
    return std::nullopt;
  return empty_list(scope);
}

// In any state of the thread.
[[gnu::noinline]] StepCallbacks get_from_torch(at::RecordScope scope, uintptr_t address) {
  StepCallbacks callbacks = torch_get(scope);
  Caller from = known_caller(address);
  if (from == Caller::not_known)
    from = find_caller(address);
  if (scope != at::RecordScope::FUNCTION || from == Caller::other)
    return callbacks;
  find_switches();
  look_for_others(g_callback);
  return holds_only(callbacks, g_callback) ? our_list(scope, from) : callbacks;
}

StepCallbacks get(at::RecordScope scope) {
  const auto address = MEMTRACE_CALLER;
  const Caller from = known_caller(address);
  if (scope != at::RecordScope::FUNCTION || from < Caller::an_operator || !nobody_else_listens())
      [[unlikely]]
    return get_from_torch(scope, address);
  return our_list(scope, from);
}

// With the number that autograd would give the operator's node.
template <class... Keys>
[[gnu::noinline]] void run_under_autograd(const at::RecordFunction& function, Schema schema,
                                          Keys... keys) {
  start_operator(reinterpret_cast<uintptr_t>(&function), schema.get().name().c_str(),
                 at_address<SequenceNumber<Keys...>>(g_torch.sequence_number)(keys...));
}

template <class... Keys> void run(at::RecordFunction& function, Schema schema, Keys... keys) {
  if (function.isActive() || !t_switches.autograd) [[unlikely]] // the latter: not from our list
    return torch_run(function, schema, keys...);
  if (t_switches.autograd->get_grad_mode())
    return run_under_autograd(function, schema, keys...);
  constexpr int64_t kNoNode = -1; // as torch says it
  start_operator(reinterpret_cast<uintptr_t>(&function), schema.get().name().c_str(), kNoNode);
}

void destroy(at::RecordFunction* function) {
  if (function->isActive() || !end_operator(reinterpret_cast<uintptr_t>(function)))
    torch_destroy(function);
}

// ---- tried out on one operator ------------------------------------------------------------------

// Its turns in the three functions, one bit for each; other threads are not concerned.
enum Turn : uint8_t { kGot = 1, kRan = 2, kDestroyed = 4, kAllTurns = 7 };
thread_local bool t_tries = false;
thread_local uint8_t t_turns = 0;

StepCallbacks try_get(at::RecordScope scope) {
  if (!t_tries)
    return torch_get(scope);
  if (find_caller(MEMTRACE_CALLER) == Caller::a_view)
    t_turns |= kGot;
  return empty_list(scope);
}

template <class... Keys> void try_run(at::RecordFunction& function, Schema schema, Keys... keys) {
  if (t_tries && !function.isActive() && schema.get().name() == "aten::result_type")
    t_turns |= kRan;
  torch_run(function, schema, keys...);
}

void try_destroy(at::RecordFunction* function) {
  if (t_tries && !function->isActive())
    t_turns |= kDestroyed;
  torch_destroy(function);
}

// ---- in and out ---------------------------------------------------------------------------------

struct Replacements {
  uintptr_t get, run, destroy;
};
template <class... Keys>
const Replacements kShortcut{reinterpret_cast<uintptr_t>(&get),
                             reinterpret_cast<uintptr_t>(&run<Keys...>),
                             reinterpret_cast<uintptr_t>(&destroy)};
template <class... Keys>
const Replacements kTrial{reinterpret_cast<uintptr_t>(&try_get),
                          reinterpret_cast<uintptr_t>(&try_run<Keys...>),
                          reinterpret_cast<uintptr_t>(&try_destroy)};

struct Slots {
  ImportSlot get, run, destroy;

  // What has got an empty list should come by ours to the end. What does not, since it is under way
  // while the slots change, has no effect in torch's: they are made for lists that are empty.
  void replace(const Replacements& functions) noexcept {
    destroy.store(functions.destroy, std::memory_order_release);
    run.store(functions.run, std::memory_order_release);
    get.store(functions.get, std::memory_order_release);
  }
  void give_back() noexcept {
    get.store(g_torch.get, std::memory_order_release);
    run.store(g_torch.run, std::memory_order_release);
    destroy.store(g_torch.destroy, std::memory_order_release);
  }
};
std::optional<Slots> g_slots; // empty: not prepared, or this torch's linkage is another

// False: a function is missing.
bool find_torch(const SharedLibrary& library) {
  std::string_view run_keys, number_keys;
  library.for_each_function([&](const SharedLibrary::Function& function) {
    const std::string_view name = function.name;
    const auto is_one = [name](std::string_view start, std::string_view& keys) {
      if (!name.starts_with(start))
        return false;
      const std::string_view rest = name.substr(start.size());
      if (rest != kKey && rest != kKeyAndSet)
        return false;
      keys = rest;
      return true;
    };
    if (const std::string_view found = operator_class(name); !found.empty()) {
      g_operator_code.push_back({function.begin, function.end, kind_of(found)});
    } else if (name == kGetName) {
      g_torch.get = function.begin;
    } else if (name == kDestroyName) {
      g_torch.destroy = function.begin;
    } else if (is_one(kRunName, run_keys)) {
      g_torch.run = function.begin;
      g_torch.run_name = name;
    } else if (is_one(kSequenceNumberName, number_keys)) {
      g_torch.sequence_number = function.begin;
    }
  });
  std::ranges::sort(g_operator_code, {}, &OperatorCode::begin);
  g_torch.passes_key_set = run_keys == kKeyAndSet;
  return g_torch.get != 0 && g_torch.destroy != 0 && g_torch.run != 0 && run_keys == number_keys;
}

// The slots, if they are as the linker left them: one that another has changed is not ours to take.
std::optional<Slots> find_slots(const SharedLibrary& library) {
  const auto get_slot = library.import_slot(kGetName);
  const auto run_slot = library.import_slot(g_torch.run_name);
  const auto destroy_slot = library.import_slot(kDestroyName);
  if (!get_slot || !run_slot || !destroy_slot || !library.contains(get_slot->load()) ||
      !library.contains(run_slot->load()) || !library.contains(destroy_slot->load()))
    return std::nullopt;
  return Slots{*get_slot, *run_slot, *destroy_slot};
}

const Replacements& shortcut() noexcept {
  return g_torch.passes_key_set ? kShortcut<c10::DispatchKey, c10::DispatchKeySet>
                                : kShortcut<c10::DispatchKey>;
}

// On a thread of its own, which has no callbacks, no modes and no gradients of the program's.
bool works(Slots& slots) {
  // Bound from now on: a thread that lets the linker bind one later would overwrite ours.
  slots.give_back();
  slots.replace(g_torch.passes_key_set ? kTrial<c10::DispatchKey, c10::DispatchKeySet>
                                       : kTrial<c10::DispatchKey>);
  uint8_t turns = 0;
  try {
    std::async(std::launch::async, [&turns] {
      t_tries = true;
      (void)at::result_type(at::Scalar(1), at::Scalar(1));
      turns = t_turns;
    }).get();
  } catch (const std::exception&) { // no thread is to be had, or torch would not
    turns = 0;
  }
  slots.give_back();
  return turns == kAllTurns;
}

void prepare() {
  const auto library =
      SharedLibrary::containing(reinterpret_cast<uintptr_t>(&at::getStepCallbacksUnlessEmpty));
  if (!library || !find_torch(*library))
    return;
  std::optional<Slots> slots = find_slots(*library);
  if (!slots || !works(*slots))
    return;
  find_callback_count(*library);
  g_slots.emplace(*slots);
}

} // namespace

void install_dispatcher_shortcut(at::RecordFunctionCallback::StartCallback callback) {
  // No static of the function's: a child that was forked meanwhile would wait for ever.
  static bool is_prepared = false;
  if (!std::exchange(is_prepared, true))
    prepare();
  if (!g_slots)
    return;
  g_callback = callback;
  g_slots->replace(shortcut());
}

void remove_dispatcher_shortcut() {
  if (g_slots)
    g_slots->give_back();
}

bool has_dispatcher_shortcut() {
  return g_slots && g_slots->get.load() == shortcut().get;
}

} // namespace memtrace
