// The tensors that hold the memory of a tensor: itself, or what it is made of.
//
// A sparse one has indices and values; one that Python implements (a DTensor, a quantized weight of
// torchao, an optimizer's state of 8 bits) is a wrapper around others, which hang in it as
// attributes. Read as they lie there: no code of the program runs. Under the GIL.
#pragma once

#include <ATen/core/Tensor.h>
#include <Python.h>

#include <string>
#include <vector>

namespace memtrace {

struct PlainTensor {
  std::string part; // "values", "qdata", "qdata.scale"; empty: the tensor itself
  at::Tensor tensor;
};

// Nothing of what has no memory, or one that cannot be told (it is no tensor, a stand-in of a
// tracer).
std::vector<PlainTensor> plain_tensors(PyObject* tensor);

} // namespace memtrace
