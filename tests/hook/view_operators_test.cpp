// Which operators need not be followed, and what ends that.
#include "hook/view_operators.h"

#include <doctest/doctest.h>

using namespace memtrace;

TEST_CASE("operators that only make a view, by the names of their classes") {
  for (const char* name : {"view", "t", "transpose_int", "slice_Tensor", "resolve_conj", "alias"})
    CHECK(only_makes_view(name));
  for (const char* name : {"reshape", "contiguous", "to_dtype", "add_Tensor", "narrow_Tensor",
                           "tensor_split_tensor_indices_or_sections", "vie", "", "view_"})
    CHECK_FALSE(only_makes_view(name));
}

TEST_CASE("views are left out until tensors are seen whose views may allocate") {
  for (const char* name : {"aten::view", "aten::resolve_conj", "aten::resolve_neg", "aten::add",
                           "aten::to", "aten::conj", "aten::mkldnn_convolution", "mine::custom"}) {
    see_operator(name);
    CHECK_FALSE(g_views_may_allocate);
  }
  for (const char* name : {"aten::_conj", "aten::_neg_view", "aten::to_mkldnn", "aten::_to_sparse",
                           "aten::quantize_per_tensor", "aten::_nested_tensor_from_tensor_list"}) {
    g_views_may_allocate = false;
    see_operator(name);
    CHECK(g_views_may_allocate);
  }
  g_views_may_allocate = false;
}
