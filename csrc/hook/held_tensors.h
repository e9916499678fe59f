// Gradients and states of optimizers, by identity: whose they are, written when they are new.
//
// Held are the parameters that a look at the models has named, and those that an optimizer has and
// no model names, all by weak references: nothing lives longer because of us. A storage that was
// written is remembered by a weak reference as well, so another one in its place is never taken for
// it. All under the GIL, which keeps the program from replacing what is read here.
#pragma once

#include <Python.h>

#include <string_view>

namespace memtrace {

// A parameter of a model under its name there: "transformer.h.3.mlp.c_fc.weight". A tensor may have
// several. What is no tensor is ignored.
void hold_parameter(PyObject* parameter, std::string_view name) noexcept;
// No reference to it is kept any more, not even a weak one: torch is about to exchange what it
// holds (torch.utils.swap_tensors), and does so with tensors that nobody else refers to alone.
void let_go_of(PyObject* parameter) noexcept;
// Called when an optimizer has a parameter without a name: may hold it under one. Null: none.
void set_unnamed_callback(PyObject* callback) noexcept;

// "grad of ...", of all that are held; takes the GIL. Nothing while a backward pass is under way,
// nor where several threads train (while_no_backward).
void look_at_gradients() noexcept;
// Likewise of the parameters in param_groups; those without a name get that of their place.
void look_at_optimizer(PyObject* param_groups) noexcept;
// "exp_avg of ...": the tensors in Optimizer.state.
void look_at_state(PyObject* state) noexcept;

// The recording is over: nothing is held any more.
void forget_held_tensors() noexcept;

} // namespace memtrace
