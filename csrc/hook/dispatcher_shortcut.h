// The short way from torch's dispatcher to operators.cpp.
//
// RecordFunction, which tells of every operator, costs more than all that we do with it: a list of
// callbacks is copied twice, contexts and inputs that nobody asked for are made and destroyed.
// Where our callback is the only one, three functions that libtorch_cpu calls through its own
// procedure linkage table are answered by ours:
//
//   getStepCallbacksUnlessEmpty    hands back a list with none in it, so what torch makes of it
//                                  runs no callbacks; asks torch's if somebody else may listen
//   Dispatcher::runRecordFunction  given such a RecordFunction, begins the operator
//   ~RecordFunction                ends it; there is nothing in it that would have to be freed
//
// An operator that only makes a view is not observed at all where autograd is off
// (view_operators.h), nor is a factory inside another operator (factory_operators.h): torch goes on
// as if nobody listened. As soon as another one listens on the
// thread (torch.profiler beside us; other_listeners.h), every operator takes torch's way, with all
// callbacks. So does what is not called from an at::_ops::...::call of libtorch_cpu.
//
// Nothing of torch's code is changed, only pointers that the linker leaves writable; `remove` puts
// them back. Where the linkage is another (a torch that was built with -z now, or whose calls do
// not go through the table), RecordFunction's callbacks do all as before: the way is tried out on
// one operator before it is taken.
#pragma once

#include <ATen/record_function.h>

namespace memtrace {

// `callback` is ours, already added. Under the GIL, as `remove`.
void install_dispatcher_shortcut(at::RecordFunctionCallback::StartCallback callback);
void remove_dispatcher_shortcut();
// Whether it is installed; false as well where torch's own way has to stay.
bool has_dispatcher_shortcut();

} // namespace memtrace
