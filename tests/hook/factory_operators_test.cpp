// Which operators only make storage for others.
#include "hook/factory_operators.h"

#include <doctest/doctest.h>

using namespace memtrace;

TEST_CASE("factories, by the names of their schemas") {
  for (const char* name : {"aten::empty", "aten::empty_like", "aten::resize_", "aten::resize_as_"})
    CHECK(is_factory(name));
  for (const char* name : {"aten::zeros", "aten::empty_quantized", "mine::empty", "empty",
                           "aten::", "", "aten::resize", "aten::empty_"})
    CHECK_FALSE(is_factory(name));
}

TEST_CASE("factories, by the names of their classes") {
  for (const char* name :
       {"empty_memory_format", "empty_names", "empty_out", "empty_strided", "empty_strided_out",
        "empty_like", "new_empty_strided", "resize_", "resize_as_", "_empty_affine_quantized"})
    CHECK(is_factory_class(name));
  for (const char* name : {"empty_quantized", "zeros", "resize", "empty_", "new_empty_stride", ""})
    CHECK_FALSE(is_factory_class(name));
}
