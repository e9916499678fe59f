#include "hook/other_listeners.h"

#include <memory>
#include <span>
#include <vector>

namespace memtrace {
namespace {

using Word = const std::atomic<uintptr_t>;

// How torch keeps the list for all threads (GlobalCallbackManager, private): the count, then the
// beginning and the end of a vector.
constexpr size_t kListWords = 3;
constexpr uintptr_t kEntryBytes = sizeof(at::RecordFunctionCallbacksEntry);

struct State {
  uintptr_t count, size_bytes;
  bool operator==(const State&) const = default;
};

State read(Word* words) noexcept {
  const uintptr_t count = words[0].load(std::memory_order_acquire);
  const uintptr_t begin = words[1].load(std::memory_order_relaxed);
  const uintptr_t end = words[2].load(std::memory_order_relaxed);
  return {count, end - begin};
}

// A list of at least one, and of no more than a program can have.
bool may_be_list(const State& state) noexcept {
  constexpr uintptr_t kMostEntries = 1000;
  return state.count != 0 && state.size_bytes != 0 && state.size_bytes % kEntryBytes == 0 &&
         state.size_bytes / kEntryBytes < kMostEntries;
}

// Torch never runs it: Python's torch opens no such scope.
at::CallbackHandle add_idle_callback() {
  at::RecordFunctionCallback callback(
      [](const at::RecordFunction&) { return std::unique_ptr<at::ObserverContext>(); });
  callback.scopes({at::RecordScope::STATIC_RUNTIME_MODEL});
  return at::addGlobalCallback(callback);
}

struct Candidate {
  Word* words;
  State before;
};

void keep_those_that_became(std::vector<Candidate>& candidates, uintptr_t more_changes,
                            uintptr_t more_bytes) {
  std::erase_if(candidates, [&](const Candidate& each) {
    const State wanted{each.before.count + more_changes, each.before.size_bytes + more_bytes};
    return read(each.words) != wanted;
  });
}

} // namespace

void find_callback_count(const SharedLibrary& torch) {
  std::vector<Candidate> candidates;
  const std::span<Word> variables = torch.variables();
  for (size_t at = 0; at + kListWords <= variables.size(); ++at)
    if (const State state = read(&variables[at]); may_be_list(state))
      candidates.push_back({&variables[at], state});
  const at::CallbackHandle idle = add_idle_callback();
  keep_those_that_became(candidates, 1, kEntryBytes);
  at::removeCallback(idle);
  keep_those_that_became(candidates, 2, 0);
  if (candidates.size() == 1)
    g_callback_count = candidates[0].words;
}

void look_for_others(at::RecordFunctionCallback::StartCallback callback) {
  if (!g_callback_count)
    return;
  Listeners& known = t_listeners;
  known.own = &at::get_record_function_tls_();
  const uintptr_t count = g_callback_count->load(std::memory_order_acquire);
  if (!known.own->sorted_tls_callbacks_.empty() || !known.own->tls_record_function_enabled_ ||
      known.count == count)
    return;
  // Takes torch's lock: whoever has counted up has changed the list as well, from here on.
  (void)at::hasGlobalCallbacks();
  // Another one may be told of some operators alone, so that torch's list is not enough.
  const bool is_one = read(g_callback_count).size_bytes == kEntryBytes;
  const bool alone =
      is_one && holds_only(at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION), callback);
  if (g_callback_count->load(std::memory_order_acquire) == count) {
    known.count = count;
    known.alone = alone;
  }
}

} // namespace memtrace
