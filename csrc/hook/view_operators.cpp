#include "hook/view_operators.h"

#include <algorithm>

namespace memtrace {
namespace {

// Sorted. Not here: what copies where it must (reshape, contiguous, to), what reads a tensor's
// value (narrow with a tensor, tensor_split), and what is called by other names inside.
constexpr std::string_view kViews[] = {
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "as_strided",
    "detach",
    "diagonal",
    "expand",
    "expand_as",
    "mT",
    "movedim_int",
    "movedim_intlist",
    "narrow",
    "numpy_T",
    "permute",
    "resolve_conj",
    "resolve_neg",
    "result_type_Scalar",
    "result_type_Scalar_Scalar",
    "result_type_Scalar_Tensor",
    "result_type_Tensor",
    "select_int",
    "slice_Tensor",
    "split_Tensor",
    "split_sizes",
    "split_with_sizes",
    "squeeze",
    "squeeze_dim",
    "squeeze_dims",
    "swapaxes",
    "swapdims",
    "t",
    "transpose_int",
    "unbind_int",
    "unfold",
    "unsqueeze",
    "view",
    "view_as",
};
static_assert(std::ranges::is_sorted(kViews));

// Of names: oneDNN's convolutions and conj() of real numbers are no signs.
constexpr std::string_view kSigns[] = {"sparse", "to_mkldnn", "quantize",
                                       "nested", "_conj",     "_neg_view"};
// A view itself, seen where autograd records.
constexpr std::string_view kNoSign = "aten::resolve_conj";

} // namespace

bool only_makes_view(std::string_view operator_class) noexcept {
  return std::ranges::binary_search(kViews, operator_class);
}

void see_operator(std::string_view name) noexcept {
  const auto is_in_name = [name](std::string_view sign) {
    return name.find(sign) != std::string_view::npos;
  };
  if (std::ranges::any_of(kSigns, is_in_name) && name != kNoSign)
    g_views_may_allocate.store(true, std::memory_order_relaxed);
}

} // namespace memtrace
