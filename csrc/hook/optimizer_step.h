// Steps of optimizers, told by the scope that torch.optim.Optimizer puts around each: which
// optimizer it is, and what it holds. A compiled step has no scope: then zero_grad's is the moment.
//
// The optimizer is an argument of the Python frame that opened the scope, so nothing is registered
// with torch that a program, or torch.compile, could see. Both wait for the GIL: never in a hook.
#pragma once

#include <Python.h>

namespace memtrace {

// The gradients that the step will use; parameters that no model names.
void before_optimizer_step() noexcept;
// The state that it has made.
void after_optimizer_step() noexcept;
// Both, if no step was seen since the last time.
void before_zero_grad() noexcept;

// Called with the state of an optimizer that was there before its first step was seen. Null: none.
void set_old_state_callback(PyObject* callback) noexcept;
void forget_optimizers() noexcept; // the recording is over

} // namespace memtrace
