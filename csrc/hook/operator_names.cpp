#include "hook/operator_names.h"

#include "hook/factory_operators.h"
#include "hook/view_operators.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>

namespace memtrace {
namespace {

// What torch.optim.Optimizer calls the step of every optimizer, and its zero_grad.
constexpr std::string_view kOptimizerStep = "Optimizer.step#";
constexpr std::string_view kZeroGrad = "Optimizer.zero_grad#";

// Of a scope of the user's.
OptimizerScope optimizer_scope(std::string_view name) noexcept {
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

NameSet& set_of_text(ThreadState& state, std::string_view name) noexcept {
  constexpr uint64_t kSpread = 0x9E3779B97F4A7C15ULL;
  uint64_t hash = name.size();
  for (size_t at = 0; at < name.size(); at += sizeof hash) {
    uint64_t word = 0;
    std::memcpy(&word, name.data() + at, std::min(sizeof word, name.size() - at));
    hash = (hash ^ word) * kSpread;
    hash ^= hash >> 32;
  }
  return state.texts[hash * kSpread >> (64 - ThreadState::kNameSetBits)];
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
[[gnu::noinline]] const NameSlot& name_by_text(ThreadState& state, NameSet& by_pointer,
                                               const BegunCall& begun,
                                               Recording& recording) noexcept {
  const std::string_view name = begun.name;
  NameSlot learnt{};
  NameSet* set = nullptr;
  try {
    // Read first: what is deregistered meanwhile makes this one old at once.
    const uint32_t generation = g_schema_generation.load(std::memory_order_relaxed);
    if (!begun.record_function || begun.record_function->operator_name()) {
      see_operator(name);
      learnt.pointer = name.data();
      learnt.schema_generation = generation;
      set = &by_pointer;
    } else {
      NameSet& by_text = set_of_text(state, name);
      for (const NameSlot& slot : by_text)
        if (slot.text && name == slot.text) [[likely]]
          return slot;
      learnt.text = keep_text(begun.name);
      set = learnt.text ? &by_text : nullptr;
    }
  } catch (...) {
    recording.lose(Loss::text_no_space);
  }
  learnt.id = recording.api.intern(recording.api.recorder, name.data(), name.size());
  learnt.factory = is_factory(name);
  learnt.optimizer = optimizer_scope(name);
  if (!set)
    return state.spare_name = learnt;
  // An older one of the same pointer gives way, else the last.
  auto* old =
      learnt.pointer ? std::ranges::find(*set, learnt.pointer, &NameSlot::pointer) : std::end(*set);
  if (old == std::end(*set))
    --old;
  std::rotate(std::begin(*set), old, old + 1);
  return (*set)[0] = learnt;
}

} // namespace memtrace
