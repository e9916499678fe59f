// Operators that never change memory nor call one that does: those that only make a view of a
// tensor, and a few that only ask. Where autograd records nothing, nothing is written of them, so
// they need not be followed at all (dispatcher_shortcut.h).
//
// That holds for tensors that lie in memory as they are indexed. A view of a sparse, quantized,
// nested or conjugated tensor, or of one that Python implements (__torch_dispatch__), may allocate,
// and then the operator has to be known by name. From the first sign of such tensors on, views are
// followed as any other operator, until the process ends.
#pragma once

#include <atomic>
#include <string_view>

namespace memtrace {

// By the name of its class in at::_ops, as in at::_ops::select_int.
bool only_makes_view(std::string_view operator_class) noexcept;

inline std::atomic<bool> g_views_may_allocate{false};

// An operator that was not seen before, by its name: does it make tensors whose views may allocate?
void see_operator(std::string_view name) noexcept;

} // namespace memtrace
