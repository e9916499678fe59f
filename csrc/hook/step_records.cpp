#include "hook/step_records.h"

#include "hook/marked_step.h"
#include "hook/notes.h"
#include "hook/tensor_record.h"

#include <ATen/core/grad_mode.h>
#include <algorithm>
#include <array>
#include <c10/core/TensorImpl.h>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace memtrace {
namespace {

constexpr size_t kMostShapes = 64; // in the text of a step

// A class of C has its module in its name.
std::string_view class_name(const char* name) noexcept {
  const char* dot = std::strrchr(name, '.');
  return dot ? dot + 1 : name;
}

void note(const HookScope& scope, Action action, uint64_t value, uint32_t name, uint32_t text,
          uint64_t value2 = 0) noexcept {
  Note note{};
  note.value = value;
  note.value2 = value2;
  note.name = name;
  note.text = text;
  note.tail = {0, 0, kCpu, action};
  write_record(scope, note);
}

// The text ids of a call's names, each at its place: mostly they are those of the call before.
class NameIds {
 public:
  uint32_t at(const HookScope& scope, size_t place, std::string_view name,
              uint64_t path = CallTensors::kNoPath) {
    if (std::exchange(recording_, &scope.recording()) != &scope.recording())
      known_.clear();
    if (place >= known_.size())
      known_.resize(place + 1);
    Known& known = known_[place];
    if (known.id == 0 || known.path != path)
      known = {path, intern(scope, name)};
    return known.id;
  }

 private:
  struct Known {
    uint64_t path = 0;
    uint32_t id = 0;
  };
  const Recording* recording_ = nullptr;
  std::vector<Known> known_;
};

enum class Part : uint8_t { inputs, caches, outputs };

// Under the GIL. Never freed: threads may end after static destructors.
NameIds& names_of(Part part) {
  static auto* const names = new std::array<NameIds, 3>;
  return (*names)[static_cast<size_t>(part)];
}

// Those that are `wanted`.
template <typename Wanted>
void tensors(const HookScope& scope, const CallTensors& tensors, Part part, const Wanted& wanted) {
  if (tensors.found().empty() && tensors.left_out() == 0)
    return;
  NameIds& names = names_of(part);
  const uint32_t plain = names.at(scope, 0, part == Part::outputs ? "output" : "input");
  const uint32_t cache = tensors.saw_cache() ? names.at(scope, 1, "kv_cache") : 0;
  const uint64_t ticks = ticks_after(); // they were all seen at one moment
  for (size_t place = 0; place < tensors.found().size(); ++place) {
    const CallTensor& found = tensors.found()[place];
    if (wanted(found))
      write_tensor(scope, *found.tensor,
                   names.at(scope, place + 2, tensors.name(place), found.path),
                   found.in_cache ? cache : plain, ticks);
  }
  if (tensors.left_out() > 0)
    note(scope, Action::mark, 0, intern(scope, "tensors_left_out"),
         intern(scope, std::to_string(tensors.left_out())));
}

// Mostly names of Python, which are taken whole.
void append_quoted(std::string& json, std::string_view text) {
  const auto is_plain = [](char letter) {
    return static_cast<unsigned char>(letter) >= ' ' && letter != '"' && letter != '\\';
  };
  json += '"';
  if (std::ranges::all_of(text, is_plain)) {
    json += text;
  } else {
    for (const char letter : text) {
      if (letter == '"' || letter == '\\')
        json += '\\';
      json += static_cast<unsigned char>(letter) < ' ' ? ' ' : letter;
    }
  }
  json += '"';
}

void append_number(std::string& json, int64_t number) {
  std::array<char, 20> digits{};
  json.append(digits.data(), std::to_chars(digits.begin(), digits.end(), number).ptr);
}

c10::IntArrayRef sizes_of(const CallTensor& input) {
  return input.tensor->has_symbolic_sizes_strides() ? c10::IntArrayRef()
                                                    : input.tensor->sizes_default();
}

// Under the GIL; until the next call. A call is described each time, so its text keeps its room.
const std::string& describe(const CallTensors& inputs) {
  static auto* const text =
      new std::string; // never freed: threads may end after static destructors
  std::string& json = *text;
  json = R"({"batch_size": )";
  const auto has_batch = [](const CallTensor& input) {
    return !input.in_cache && !sizes_of(input).empty();
  };
  if (const auto first = std::ranges::find_if(inputs.found(), has_batch);
      first != inputs.found().end())
    append_number(json, sizes_of(*first)[0]);
  else
    json += "null";
  json += R"(, "input_shapes": {)";
  size_t count = 0;
  for (size_t place = 0; place < inputs.found().size(); ++place) {
    const CallTensor& input = inputs.found()[place];
    if (input.in_cache)
      continue;
    if (++count > kMostShapes)
      break;
    if (count > 1)
      json += ", ";
    append_quoted(json, inputs.name(place));
    json += ": [";
    for (bool more = false; const int64_t size : sizes_of(input)) {
      if (std::exchange(more, true))
        json += ", ";
      append_number(json, size);
    }
    json += ']';
  }
  json +=
      at::GradMode::is_enabled() ? R"(}, "grad_enabled": true})" : R"(}, "grad_enabled": false})";
  return json;
}

// Of their storages, in order; none of null. Under the GIL, until the next call: it keeps its room.
const std::vector<uint64_t>& addresses_of(const CallTensors* tensors) {
  static auto* const addresses = new std::vector<uint64_t>; // never freed: as above
  addresses->clear();
  if (tensors)
    for (const CallTensor& tensor : tensors->found())
      addresses->push_back(storage_facts(*tensor.tensor).address);
  std::ranges::sort(*addresses);
  return *addresses;
}

} // namespace

void write_step_begin(const Recording* recording, uint64_t step, const char* root_class,
                      const CallTensors& inputs) {
  const std::string& text = describe(inputs);
  const HookScope scope;
  if (!scope || &scope.recording() != recording)
    return;
  update_marked_step(scope.state(), scope.recording());
  note(scope, Action::step_begin, step, intern(scope, class_name(root_class)), intern(scope, text),
       scope.state().marked_step);
  tensors(scope, inputs, Part::inputs, [](const CallTensor&) { return true; });
}

void write_step_end(const Recording* recording, uint64_t step, PyObject* error,
                    const CallTensors& outputs, const CallTensors& caches) {
  const bool returns_caches = std::ranges::any_of(outputs.found(), &CallTensor::in_cache);
  const std::vector<uint64_t>& in_caches = addresses_of(returns_caches ? &caches : nullptr);
  const HookScope scope(g_kept_recording); // it may end in a pause
  if (!scope || &scope.recording() != recording)
    return;
  tensors(scope, caches, Part::caches, [](const CallTensor&) { return true; });
  // A cache that was given and is given back is named as the argument.
  tensors(scope, outputs, Part::outputs, [&](const CallTensor& tensor) {
    return !tensor.in_cache ||
           !std::ranges::binary_search(in_caches, storage_facts(*tensor.tensor).address);
  });
  const char* name = error ? reinterpret_cast<PyTypeObject*>(error)->tp_name : nullptr;
  note(scope, Action::step_end, step, 0, name ? intern(scope, class_name(name)) : 0);
  flush_full_window(scope);
}

void lose_step_record(const Recording* recording) noexcept {
  const HookScope scope;
  if (scope && &scope.recording() == recording)
    recording->lose(Loss::record_no_space);
}

} // namespace memtrace
