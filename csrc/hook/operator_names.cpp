#include "hook/operator_names.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>

namespace memtrace {
namespace {

// Operators that only make the storage for another one: memory is said to be that one's.
constexpr std::string_view kFactories[] = {
    "aten::empty",
    "aten::empty_strided",
    "aten::empty_like",
    "aten::resize_",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::resize_as_",
    "aten::empty_permuted",
    "aten::_empty_affine_quantized",
    "aten::empty.memory_format",
};

// What torch.optim.Optimizer calls the step of every optimizer, and its zero_grad.
constexpr std::string_view kOptimizerStep = "Optimizer.step#";
constexpr std::string_view kZeroGrad = "Optimizer.zero_grad#";

bool is_factory(std::string_view name) noexcept {
  return std::ranges::find(kFactories, name) != std::end(kFactories);
}

OptimizerScope optimizer_scope(at::RecordScope scope, std::string_view name) noexcept {
  if (scope != at::RecordScope::USER_SCOPE)
    return OptimizerScope::none;
  if (name.starts_with(kOptimizerStep))
    return OptimizerScope::step;
  return name.starts_with(kZeroGrad) ? OptimizerScope::zero_grad : OptimizerScope::none;
}

// Our copies of the names, one per text: slots of all threads point to them. Never freed, and
// bounded: a program can make names without end (record_function(f"request {i}")). Guarded by a
// lock that a fork takes first: the child needs it at its first operator.
constexpr size_t kMostKeptNames = 1U << 16;
constinit std::mutex g_kept_mutex;
std::unordered_map<std::string, std::unique_ptr<std::string>>* g_kept = nullptr;

// Null: there are too many.
const char* keep_text(const char* name) {
  const std::lock_guard lock(g_kept_mutex);
  const auto found = g_kept->find(name);
  if (found != g_kept->end())
    return found->second->c_str();
  if (g_kept->size() >= kMostKeptNames)
    return nullptr;
  return g_kept->emplace(name, std::make_unique<std::string>(name)).first->second->c_str();
}

class DeregistrationCount final : public c10::OpRegistrationListener {
 public:
  void onOperatorRegistered(const c10::OperatorHandle&) override {}
  void onOperatorDeregistered(const c10::OperatorHandle&) override {
    g_schema_generation.fetch_add(1, std::memory_order_relaxed);
  }
};

} // namespace

void prepare_operator_names() {
  static const bool prepared = [] {
    g_kept = new std::remove_pointer_t<decltype(g_kept)>;
    pthread_atfork([] { g_kept_mutex.lock(); }, [] { g_kept_mutex.unlock(); },
                   [] { g_kept_mutex.unlock(); });
    // For ever: names in the caches outlive a recording.
    static auto* const kept_handle =
        new c10::RegistrationHandleRAII(c10::Dispatcher::singleton().addRegistrationListener(
            std::make_unique<DeregistrationCount>()));
    (void)kept_handle;
    return true;
  }();
  (void)prepared;
}

// Into the first place of its set; the others move on, and the last one is forgotten. A name that
// is not kept goes into the thread's spare slot, until the next one.
[[gnu::noinline]] const NameSlot& learn_name(ThreadState& state, NameSet& set,
                                             const at::RecordFunction& function,
                                             Recording& recording) noexcept {
  const char* name = function.name();
  const size_t size = std::strlen(name);
  const char* text = nullptr;
  uint32_t generation = 0;
  try {
    text = keep_text(name);
    // Read first: what is deregistered meanwhile makes this one old at once.
    const uint32_t now = g_schema_generation.load(std::memory_order_relaxed);
    if (text && function.operator_name())
      generation = now;
  } catch (...) {
    recording.lose(Loss::text_no_space);
  }
  auto* const old = std::ranges::find(set, name, &NameSlot::pointer);
  if (text) // an older text of the same pointer gives way, else the last
    std::rotate(std::begin(set), old == std::end(set) ? std::end(set) - 1 : old,
                old == std::end(set) ? std::end(set) : old + 1);
  NameSlot& slot = text ? set[0] : state.spare_name;
  slot = {name,
          text,
          recording.api.intern(recording.api.recorder, name, size),
          generation,
          is_factory({name, size}),
          generation != 0,
          optimizer_scope(function.scope(), {name, size})};
  return slot;
}

} // namespace memtrace
