// Whether anybody else listens to operators on a thread, without a copy of torch's list each time.
//
// torch has a list of callbacks for all threads, which changes under a lock and is counted up each
// time, and one for each thread, which it shows. The count has no name: it is found by what it does
// when a callback comes and goes. What a thread has found out about the list for all holds until
// the count moves. Where the count is not found, nobody_else_listens() is never true.
#pragma once

#include "hook/shared_library.h"

#include <ATen/record_function.h>

#include <atomic>
#include <cstdint>
#include <optional>

namespace memtrace {

// `torch` is the library that at::addGlobalCallback lies in, to which a callback has been added
// already. Once, under the GIL.
void find_callback_count(const SharedLibrary& torch);

// Changes of the list for all threads, as torch counts them. Null: not found.
inline const std::atomic<uintptr_t>* g_callback_count = nullptr;

// Whether torch's list for some operator holds that callback and no other.
inline bool holds_only(const std::optional<at::StepCallbacks>& list,
                       at::RecordFunctionCallback::StartCallback callback) noexcept {
  return list && list->callbacks_.size() == 1 && list->callbacks_[0].start_ == callback;
}

// What a thread knows.
struct Listeners {
  const at::RecordFunctionTLS* own = nullptr; // torch's list of the thread; null: not asked for yet
  uintptr_t count = 0;                        // when it read the list for all
  bool alone = false;                         // we were in that list, and nobody else
};
inline __attribute__((tls_model("initial-exec"))) thread_local Listeners t_listeners;

// Nobody but the one who calls look_for_others(). False: somebody, or it has to be looked for.
inline bool nobody_else_listens() noexcept {
  const Listeners& known = t_listeners;
  return known.alone && known.count == g_callback_count->load(std::memory_order_acquire) &&
         known.own->sorted_tls_callbacks_.empty() && known.own->tls_record_function_enabled_;
}

// Where nobody_else_listens() was false. `callback` is ours, added for all threads.
void look_for_others(at::RecordFunctionCallback::StartCallback callback);

} // namespace memtrace
