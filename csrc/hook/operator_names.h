// What an operator is called: from RecordFunction's pointer to the text id of this recording.
//
// Each thread has a cache by pointer (ThreadState::names). The name of an operator with a schema
// lies in torch's dispatcher and stays until the operator is deregistered, which the dispatcher
// tells: until then the pointer is enough. Any other name (a node of autograd makes its own at each
// run) may come back at the same place with another text: it is found by its text alone
// (ThreadState::texts), which costs some hundred instructions.
#pragma once

#include "hook/begun_call.h"
#include "hook/thread_state.h"

#include <atomic>
#include <cstdint>

namespace memtrace {

// Goes up at every deregistration; never 0.
inline std::atomic<uint32_t> g_schema_generation{1};

// Once, before the first name is asked for. Under the GIL.
void prepare_operator_names();

// A name that has no schema, or that the cache by pointer does not know, or not any more.
const NameSlot& name_by_text(ThreadState& state, NameSet& by_pointer, const BegunCall& begun,
                             Recording& recording) noexcept;

inline NameSet& set_of(ThreadState& state, const char* name) noexcept {
  constexpr uint64_t kSpread = 0x9E3779B97F4A7C15ULL;
  const uint64_t hash = reinterpret_cast<uintptr_t>(name) * kSpread;
  return state.names[hash >> (64 - ThreadState::kNameSetBits)];
}

// By its pointer; null: not known.
inline const NameSlot* known_name(ThreadState& state, const char* name) noexcept {
  const uint32_t generation = g_schema_generation.load(std::memory_order_relaxed);
  for (const NameSlot& slot : set_of(state, name))
    if (slot.pointer == name && slot.schema_generation == generation) [[likely]]
      return &slot;
  return nullptr;
}

inline const NameSlot& name_of(ThreadState& state, const BegunCall& begun,
                               Recording& recording) noexcept {
  if (const NameSlot* const known = known_name(state, begun.name))
    return *known;
  return name_by_text(state, set_of(state, begun.name), begun, recording);
}

} // namespace memtrace
