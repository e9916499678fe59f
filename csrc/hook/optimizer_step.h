// Steps of optimizers, told by the scope that torch.optim.Optimizer puts around each: which
// optimizer it is, and what it holds.
//
// The optimizer is an argument of the Python frame that opened the scope, so nothing is registered
// with torch that a program, or torch.compile, could see. Both wait for the GIL: never in a hook.
#pragma once

namespace memtrace {

// The gradients that the step will use; parameters that no model names.
void before_optimizer_step() noexcept;
// The state that it has made.
void after_optimizer_step() noexcept;

} // namespace memtrace
