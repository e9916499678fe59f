#include "hook/factory_operators.h"

#include <algorithm>

namespace memtrace {
namespace {

constexpr std::string_view kFactories[] = {
    "empty",      "empty_strided",  "empty_like",
    "resize_",    "new_empty",      "new_empty_strided",
    "resize_as_", "empty_permuted", "_empty_affine_quantized",
};
// The overloads that they have; the first has no name.
constexpr std::string_view kClassEndings[] = {"", "_memory_format", "_names", "_out"};

constexpr std::string_view kNamespace = "aten::";

} // namespace

bool is_factory(std::string_view name) noexcept {
  return name.starts_with(kNamespace) &&
         std::ranges::find(kFactories, name.substr(kNamespace.size())) != std::end(kFactories);
}

bool is_factory_class(std::string_view operator_class) noexcept {
  return std::ranges::any_of(kFactories, [&](std::string_view factory) {
    return operator_class.starts_with(factory) &&
           std::ranges::find(kClassEndings, operator_class.substr(factory.size())) !=
               std::end(kClassEndings);
  });
}

} // namespace memtrace
