// Operators that only make the storage for another one, as aten::empty does for aten::add: inside
// of that one they are part of it, not calls of their own. So memory is said to be that one's, and
// the call it is in is the one whose name it bears.
#pragma once

#include <string_view>

namespace memtrace {

// By the name of its schema, as "aten::empty".
bool is_factory(std::string_view name) noexcept;

// By the name of its class in at::_ops, as in at::_ops::empty_memory_format.
bool is_factory_class(std::string_view operator_class) noexcept;

} // namespace memtrace
