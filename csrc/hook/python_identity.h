// Which code objects make up a call of an nn.Module, and the switch of the whole walk.
//
// install_code_identity(), install_module_identity() and uninstall_identity() are in
// python_stack.h.
#pragma once

#include <array>
#include <atomic>
#include <mutex>

namespace memtrace {

// Code objects of torch.nn.Module, kept alive for ever once known. Written under the GIL.
struct ModuleCalls {
  // _wrapped_call_impl: its `self` is the module; not known: this
  std::atomic<const void*> entry{this};
  std::array<std::atomic<const void*>, 8> plumbing{}; // _call_impl and the functions inside it

  bool is_module_call(const void* code) const noexcept {
    return code == entry.load(std::memory_order_relaxed);
  }
  bool is_plumbing(const void* code) const noexcept {
    for (const auto& known : plumbing) // never null itself
      if (code == known.load(std::memory_order_relaxed))
        return true;
    return false;
  }
};

inline ModuleCalls g_module_calls;
inline const ModuleCalls& module_calls() noexcept {
  return g_module_calls;
}

// Taken before any lock of object_identity.h, and held across fork() by the forking thread.
// (Its destructor does nothing: threads may outlive main().)
inline std::mutex g_first_sight;

} // namespace memtrace
