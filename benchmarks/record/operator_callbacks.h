// What both floors ask of torch: the operators that memtrace observes, and as little of each.
#pragma once

#include <ATen/record_function.h>

// The same scopes as csrc/hook/operators.cpp.
inline at::CallbackHandle observe_operators(at::RecordFunctionCallback::StartCallback start,
                                            at::RecordFunctionCallback::EndCallback end) {
  at::RecordFunctionCallback callback(start, end);
  callback.needsInputs(false).needsOutputs(false).needsIds(false);
  callback.scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION,
                   at::RecordScope::TORCHSCRIPT_FUNCTION, at::RecordScope::CUSTOM_CLASS,
                   at::RecordScope::USER_SCOPE});
  return at::addGlobalCallback(callback);
}
