#include "hook/step_records.h"

#include "record/clock.h"

#include <ATen/core/grad_mode.h>
#include <cstring>
#include <string>
#include <string_view>

namespace memtrace {
namespace {

constexpr size_t kMostShapes = 64; // in the text of a step

uint32_t intern(const HookScope& scope, std::string_view text) noexcept {
  const RecorderApi& api = scope.recording().api;
  return api.intern(api.recorder, text.data(), text.size());
}

// A class of C has its module in its name.
std::string_view class_name(const char* name) noexcept {
  const char* dot = std::strrchr(name, '.');
  return dot ? dot + 1 : name;
}

void note(const HookScope& scope, Action action, uint64_t value, uint32_t name,
          uint32_t text) noexcept {
  ThreadState& state = scope.state();
  Record* record = state.log->reserve();
  if (!record)
    return scope.recording().lose(Loss::record_no_space);
  record->note = {};
  record->note.ticks = ticks_after();
  record->note.value = value;
  record->note.name = name;
  record->note.text = text;
  state.log->publish({state.thread, 0, kCpu, action});
}

// Which tensors of a call are written, and as what.
enum class Kind : uint8_t { input, output, cache_only };

void tensors(const HookScope& scope, const CallTensors& tensors, Kind kind) noexcept {
  ThreadState& state = scope.state();
  const uint32_t kinds[] = {intern(scope, "input"), intern(scope, "output")};
  const uint32_t cache = intern(scope, "kv_cache");
  for (const CallTensor& tensor : tensors.found()) {
    if (tensor.address == 0 || tensor.size_bytes == 0 ||
        (kind == Kind::cache_only && !tensor.in_cache))
      continue;
    const uint32_t name = intern(scope, tensor.name);
    const uint32_t layout = intern(scope, tensor.layout);
    Record* record = state.log->reserve();
    if (!record)
      return scope.recording().lose(Loss::record_no_space);
    record->tensor = {};
    record->tensor.ticks = ticks_after();
    record->tensor.address = tensor.address;
    record->tensor.size_bytes = tensor.size_bytes;
    record->tensor.offset_bytes = tensor.offset_bytes;
    record->tensor.name = name;
    record->tensor.kind = tensor.in_cache ? cache : kinds[static_cast<size_t>(kind)];
    record->tensor.layout = layout;
    state.log->publish({state.thread, 0, tensor.device, Action::tensor});
  }
  if (tensors.left_out() > 0)
    note(scope, Action::mark, 0, intern(scope, "tensors_left_out"),
         intern(scope, std::to_string(tensors.left_out())));
}

void append_quoted(std::string& json, std::string_view text) {
  json += '"';
  for (const char letter : text) {
    if (letter == '"' || letter == '\\')
      (json += '\\') += letter;
    else
      json += static_cast<unsigned char>(letter) < ' ' ? ' ' : letter;
  }
  json += '"';
}

std::string describe(const CallTensors& inputs) {
  std::string batch = "null";
  std::string shapes;
  size_t count = 0;
  for (const CallTensor& input : inputs.found()) {
    if (input.in_cache)
      continue;
    const std::string_view shape = input.shape();
    if (batch == "null" && !shape.empty())
      batch = shape.substr(0, shape.find('x'));
    if (++count > kMostShapes)
      continue;
    if (count > 1)
      shapes += ", ";
    append_quoted(shapes, input.name);
    shapes += ": [";
    for (const char letter : shape)
      letter == 'x' ? shapes += ", " : shapes += letter;
    shapes += ']';
  }
  std::string json = R"({"batch_size": )" + batch + R"(, "input_shapes": {)" + shapes;
  json += R"(}, "grad_enabled": )";
  return json + (at::GradMode::is_enabled() ? "true}" : "false}");
}

} // namespace

void write_step_begin(const Recording* recording, uint64_t step, const char* root_class,
                      const CallTensors& inputs) {
  const std::string text = describe(inputs);
  const HookScope scope;
  if (!scope || &scope.recording() != recording)
    return;
  note(scope, Action::step_begin, step, intern(scope, class_name(root_class)), intern(scope, text));
  tensors(scope, inputs, Kind::input);
}

void write_step_end(const Recording* recording, uint64_t step, PyObject* error,
                    const CallTensors& outputs, const CallTensors& caches) {
  const HookScope scope;
  if (!scope || &scope.recording() != recording)
    return;
  tensors(scope, caches, Kind::cache_only);
  tensors(scope, outputs, Kind::output);
  const char* name = error ? reinterpret_cast<PyTypeObject*>(error)->tp_name : nullptr;
  note(scope, Action::step_end, step, 0, name ? intern(scope, class_name(name)) : 0);
  const RecorderApi& api = recording->api;
  if (scope.state().log->flush_pending) [[unlikely]]
    api.flush(api.recorder, scope.state().log);
}

void write_mark(const Recording* recording, const char* kind) noexcept {
  const HookScope scope;
  if (scope && &scope.recording() == recording)
    note(scope, Action::mark, 0, intern(scope, kind), 0);
}

} // namespace memtrace
