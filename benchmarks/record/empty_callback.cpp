// The least that knowing the operator can cost: torch's RecordFunction with callbacks that do
// nothing. What it adds to a program is torch's own, whoever the callbacks belong to.
#include <ATen/record_function.h>

#include <memory>

namespace {

std::unique_ptr<at::ObserverContext> start(const at::RecordFunction&) {
  return nullptr;
}
void end(const at::RecordFunction&, at::ObserverContext*) {}

at::CallbackHandle g_callback = at::INVALID_CALLBACK_HANDLE;

} // namespace

// Asks for as little, and for the same scopes, as csrc/hook/operators.cpp.
extern "C" void empty_callback_on() {
  at::RecordFunctionCallback callback(&start, &end);
  callback.needsInputs(false).needsOutputs(false).needsIds(false);
  callback.scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION,
                   at::RecordScope::TORCHSCRIPT_FUNCTION, at::RecordScope::CUSTOM_CLASS,
                   at::RecordScope::USER_SCOPE});
  g_callback = at::addGlobalCallback(callback);
}

extern "C" void empty_callback_off() {
  at::removeCallback(g_callback);
}
