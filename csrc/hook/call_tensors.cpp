#include "hook/call_tensors.h"

#include "hook/python_objects.h"

#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace memtrace {
namespace {

constexpr unsigned kMostDepth = 8;
constexpr size_t kMostVisits = 16384;                    // a list may hold a million numbers
constexpr size_t kMostObjects = 256;                     // whose dictionaries are read
constexpr uint64_t kPathMultiplier = 0x9E3779B97F4A7C15; // odd: nothing of a path is lost

bool is_a(PyObject* object, PyTypeObject* type) noexcept {
  return type != nullptr && PyObject_TypeCheck(object, type);
}

// False: neither a container nor of a class made in Python, as torch's, the caches' and the
// program's own are.
bool may_hold_tensors(PyObject* object) noexcept {
  constexpr unsigned long kFlags = Py_TPFLAGS_HEAPTYPE | Py_TPFLAGS_TUPLE_SUBCLASS |
                                   Py_TPFLAGS_LIST_SUBCLASS | Py_TPFLAGS_DICT_SUBCLASS;
  return (Py_TYPE(object)->tp_flags & kFlags) != 0;
}

PyTypeObject* class_in(PyObject* modules, const Key& module, const Key& name) noexcept {
  PyObject* home = module.in(modules);
  if (!home || !PyModule_Check(home))
    return nullptr;
  PyObject* found = name.in(PyModule_GetDict(home));
  return found && PyType_Check(found) ? reinterpret_cast<PyTypeObject*>(found) : nullptr;
}

// Empty: not a text, or one that cannot be written as UTF-8.
std::string_view text_of(PyObject* object) noexcept {
  if (!object || !PyUnicode_Check(object))
    return {};
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object, &size);
  if (!text) {
    PyErr_Clear();
    return {};
  }
  return {text, static_cast<size_t>(size)};
}

// The function that forward is, behind decorators that say what they wrap; or null.
PyObject* forward_of(PyTypeObject* type) noexcept {
  static const Key forward("forward"), wraps("__wrapped__");
  PyObject* function = forward.text() ? _PyType_Lookup(type, forward.text()) : nullptr;
  constexpr int kMostWrappers = 8;
  for (int i = 0; function && PyFunction_Check(function) && i < kMostWrappers; ++i) {
    PyObject* wrapped = wraps.in(reinterpret_cast<PyFunctionObject*>(function)->func_dict);
    if (!wrapped)
      return function;
    function = wrapped;
  }
  return nullptr;
}

// The name of a positional parameter of forward, or null.
PyObject* parameter(PyObject* forward, size_t place) noexcept {
  if (!forward)
    return nullptr;
  const auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(forward));
  if (std::cmp_greater_equal(place, code->co_argcount))
    return nullptr;
#if PY_VERSION_HEX >= 0x030B0000
  return PyTuple_GET_ITEM(code->co_localsplusnames, static_cast<Py_ssize_t>(place));
#else
  return PyTuple_GET_ITEM(code->co_varnames, static_cast<Py_ssize_t>(place));
#endif
}

} // namespace

// A text of ours in a path, and its number. Or one of Python's, cut to size; it lasts as long as
// the walk.
struct CallTensors::Word {
  template <size_t Size>
  consteval explicit(false) Word(const char (&own)[Size]) : Word(std::string_view(own, Size - 1)) {}
  static constexpr Word of(std::string_view own) noexcept { return Word(own); }

  std::string_view text;
  uint64_t hash;

 private:
  constexpr explicit Word(std::string_view own) noexcept : text(own), hash(own.size()) {
    for (const char letter : own)
      hash = hash * kPathMultiplier + static_cast<unsigned char>(letter);
  }
};

// A part of the name of all that is found while it lives, behind those around it. The text of a
// name is seldom needed: its path stands for it, a number made of what names its parts.
class CallTensors::Name {
 public:
  static Name field(CallTensors& walk, PyObject* key) {
    return {walk, Form::field, hash_of(key), key, {}, 0};
  }
  static Name field(CallTensors& walk, const Word& own) {
    return {walk, Form::field, own.hash, nullptr, own.text, 0};
  }
  static Name word(CallTensors& walk, const Word& own) {
    return {walk, Form::word, own.hash, nullptr, own.text, 0};
  }
  static Name word(CallTensors& walk, Py_ssize_t number) {
    return {walk, Form::number, static_cast<uint64_t>(number), nullptr, {}, number};
  }
  static Name index(CallTensors& walk, Py_ssize_t place) {
    return {walk, Form::index, static_cast<uint64_t>(place), nullptr, {}, place};
  }
  ~Name() { walk_.innermost_ = around_; }
  Name(const Name&) = delete;
  Name& operator=(const Name&) = delete;

  uint64_t path() const noexcept { return path_; }

  std::string text() const {
    std::string text = around_ ? around_->text() : std::string();
    switch (form_) {
    case Form::field:
      if (!text.empty())
        text += '.';
      return (text += own_) += text_of(key_);
    case Form::word:
      return (text += ' ') += own_;
    case Form::number:
      return (text += ' ') += std::to_string(number_);
    case Form::index:
      return (text += '[').append(std::to_string(number_)) += ']';
    }
    return text;
  }

 private:
  enum class Form : uint8_t { field, word, number, index };

  Name(CallTensors& walk, Form form, uint64_t hash, PyObject* key, std::string_view own,
       Py_ssize_t number) noexcept
      : walk_(walk), around_(std::exchange(walk.innermost_, this)), form_(form), key_(key),
        own_(own), number_(number), path_((std::rotl(around_ ? around_->path_ : kNoPath, 7) ^ hash ^
                                           static_cast<uint64_t>(form) << 62) *
                                          kPathMultiplier) {}

  // Python keeps it in a text. Of anything else, which names nothing: 0.
  static uint64_t hash_of(PyObject* key) noexcept {
    if (!key || !PyUnicode_Check(key))
      return 0;
    const Py_hash_t kept = reinterpret_cast<PyASCIIObject*>(key)->hash;
    return static_cast<uint64_t>(kept != -1 ? kept : PyUnicode_Type.tp_hash(key));
  }

  CallTensors& walk_;
  const Name* const around_;
  const Form form_;
  PyObject* const key_;        // a text of Python's, or
  const std::string_view own_; // of ours, or
  const Py_ssize_t number_;
  const uint64_t path_;
};

void CallClasses::renew() noexcept {
  static const Key cache_utils("transformers.cache_utils"), cache_name("Cache"),
      mamba_name("MambaCache"), batching("transformers.generation.continuous_batching.cache"),
      paged_name("PagedAttentionCache"), fx_proxy("torch.fx.proxy"), proxy_name("Proxy");
  PyObject* const modules = PyImport_GetModuleDict();
  if (std::exchange(modules_, PyDict_GET_SIZE(modules)) == PyDict_GET_SIZE(modules))
    return;
  cache = class_in(modules, cache_utils, cache_name);
  mamba_cache = class_in(modules, cache_utils, mamba_name);
  paged_cache = class_in(modules, batching, paged_name);
  proxy = class_in(modules, fx_proxy, proxy_name);
}

void CallTensors::clear() noexcept {
  found_.clear();
  caches_.clear();
  given_ = nullptr;
  in_cache_ = only_caches_ = false;
  visits_ = objects_ = left_out_ = stand_ins_ = 0;
}

void CallTensors::read_arguments(PyObject* module, PyObject* const* args, size_t count,
                                 PyObject* names) {
  clear();
  walk_arguments(module, args, count, names);
}

void CallTensors::walk_arguments(PyObject* module, PyObject* const* args, size_t count,
                                 PyObject* names) {
  PyObject* const forward = forward_of(Py_TYPE(called_module(module, *classes_)));
  for (size_t i = 0; i < count; ++i) {
    if (PyObject* known = parameter(forward, i + 1)) { // 0 is self
      const Name name = Name::field(*this, known);
      object(args[i], 0);
    } else {
      const Name name = Name::field(*this, "args");
      const Name place = Name::index(*this, static_cast<Py_ssize_t>(i));
      object(args[i], 0);
    }
  }
  for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); ++i) {
    const Name name = Name::field(*this, PyTuple_GET_ITEM(names, i));
    object(args[count + static_cast<size_t>(i)], 0);
  }
}

void CallTensors::read_caches(PyObject* module, PyObject* const* args, size_t count,
                              PyObject* names) {
  clear();
  only_caches_ = true;
  walk_arguments(module, args, count, names);
}

void CallTensors::read_result(PyObject* result, const CallTensors& given) {
  clear();
  given_ = &given;
  // What has fields names its tensors by them, the rest is "output" and places in it.
  const bool has_fields =
      PyDict_Check(result) || (!PyTuple_Check(result) && !PyList_Check(result) &&
                               !is_a(result, classes_->tensor) && !is_a(result, classes_->cache));
  if (has_fields)
    return object(result, 0);
  const Name name = Name::field(*this, "output");
  object(result, 0);
}

void CallTensors::object(PyObject* object, unsigned depth) {
  if (!object || object == Py_None || depth > kMostDepth || ++visits_ > kMostVisits ||
      !may_hold_tensors(object))
    return;
  if (is_a(object, classes_->tensor))
    return tensor(object, depth);
  if (PyTuple_Check(object)) {
    static const Key named("_fields");
    PyObject* fields = PyTuple_CheckExact(object) ? nullptr : named.in(Py_TYPE(object)->tp_dict);
    return sequence(reinterpret_cast<PyTupleObject*>(object)->ob_item, PyTuple_GET_SIZE(object),
                    fields, depth + 1);
  }
  if (PyList_Check(object))
    return sequence(reinterpret_cast<PyListObject*>(object)->ob_item, PyList_GET_SIZE(object),
                    nullptr, depth + 1);
  if (PyDict_Check(object))
    return dict(object, depth + 1);
  if (!(Py_TYPE(object)->tp_flags & Py_TPFLAGS_HEAPTYPE) || PyType_Check(object))
    return;
  if (is_a(object, classes_->cache) || is_a(object, classes_->mamba_cache) ||
      is_a(object, classes_->paged_cache))
    return cache(object, depth + 1);
  if (is_a(object, classes_->proxy)) {
    ++stand_ins_;
    return;
  }
  if (!is_a(object, classes_->module)) // whose tensors are the program's in another way
    attributes(object, depth + 1);
}

void CallTensors::sequence(PyObject* const* items, Py_ssize_t count, PyObject* fields,
                           unsigned depth) {
  const bool named =
      fields != nullptr && PyTuple_Check(fields) && PyTuple_GET_SIZE(fields) == count;
  for (Py_ssize_t i = 0; i < count && visits_ <= kMostVisits; ++i) {
    const Name name =
        named ? Name::field(*this, PyTuple_GET_ITEM(fields, i)) : Name::index(*this, i);
    object(items[i], depth);
  }
}

void CallTensors::dict(PyObject* dict, unsigned depth) {
  PyObject *key = nullptr, *value = nullptr;
  for (Py_ssize_t at = 0; visits_ <= kMostVisits && PyDict_Next(dict, &at, &key, &value);) {
    int overflow = 0;
    const Name name =
        PyUnicode_Check(key)
            ? Name::field(*this, key)
            : Name::index(*this, PyLong_CheckExact(key) ? PyLong_AsLongAndOverflow(key, &overflow)
                                                        : at - 1);
    object(value, depth);
  }
}

void CallTensors::attributes(PyObject* object, unsigned depth) {
  if (++objects_ > kMostObjects)
    return;
  Attributes attributes(object);
  for (PyObject *key = nullptr, *value = nullptr;
       visits_ <= kMostVisits && attributes.next(key, value);) {
    const Name name = Name::field(*this, key);
    this->object(value, depth);
  }
}

// Layers with their keys and values; in older versions lists of keys and of values. One for an
// encoder and a decoder holds two caches.
void CallTensors::cache(PyObject* cache, unsigned depth) {
  if (!in_cache_) {
    if (given_ && std::ranges::find(given_->caches_, cache) != given_->caches_.end())
      return;
    caches_.push_back(cache);
  }
  if (++objects_ > kMostObjects)
    return;
  const bool around = std::exchange(in_cache_, true);
  Attributes attributes(cache);
  for (PyObject *key = nullptr, *value = nullptr; attributes.next(key, value);)
    cache_part(key, value, depth);
  in_cache_ = around;
}

void CallTensors::cache_part(PyObject* key, PyObject* value, unsigned depth) {
  if (!may_hold_tensors(value))
    return;
  // Nothing else that it refers to (a model's configuration) is part of it.
  const bool is_list = PyList_Check(value);
  if (!is_list && !is_a(value, classes_->tensor) && !PyTuple_Check(value) && !PyDict_Check(value) &&
      !is_a(value, classes_->cache))
    return;
  static const Key keys("keys"), values("values"); // of nearly all caches
  if (key == keys.text() || key == values.text()) {
    const Name name = Name::word(*this, key == keys.text() ? Word("key") : Word("value"));
    return object(value, depth);
  }
  std::string_view part = text_of(key);
  while (part.starts_with('_'))
    part.remove_prefix(1);
  if (part == "layers" && is_list) {
    const Name layer = Name::word(*this, "layer");
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value) && depth <= kMostDepth; ++i) {
      const Name number = Name::word(*this, i);
      cache(PyList_GET_ITEM(value, i), depth + 1);
    }
    return;
  }
  if (is_list && (part == "key_cache" || part == "value_cache")) {
    const Name layer = Name::word(*this, "layer");
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i) {
      const Name number = Name::word(*this, i);
      const Name name = Name::word(*this, part == "key_cache" ? Word("key") : Word("value"));
      object(PyList_GET_ITEM(value, i), depth);
    }
    return;
  }
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kWords = {
      {{"keys", "key"},
       {"values", "value"},
       {"self_attention_cache", "self"},
       {"cross_attention_cache", "cross"}}};
  for (const auto& [attribute, word] : kWords)
    if (part == attribute)
      part = word;
  const Name name = Name::word(*this, Word::of(part));
  object(value, depth);
}

void CallTensors::tensor(PyObject* object, unsigned depth) {
  if (only_caches_ && !in_cache_)
    return;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!tensor.defined())
    return;
  // A wrapper may answer everything with Python code: what it holds are the tensors.
  if (!tensor.unsafeGetTensorImpl()->is_python_dispatch())
    return this->tensor(tensor);
  if (PyObject* const local = local_tensor_of(object);
      local && is_a(local, classes_->tensor) && depth <= kMostDepth)
    return this->tensor(local, depth + 1);
  const size_t before = found_.size();
  Attributes attributes(object);
  for (PyObject *key = nullptr, *value = nullptr;
       depth <= kMostDepth && attributes.next(key, value);)
    if (is_a(value, classes_->tensor) && ++visits_ <= kMostVisits)
      this->tensor(value, depth + 1);
  if (found_.size() != before)
    return;
  // A subclass with memory of its own, or else one that has none (a fake tensor).
  this->tensor(tensor);
}

void CallTensors::tensor(const at::Tensor& given) {
  const at::Tensor* tensor = &given;
  while (const auto* batched = at::functorch::maybeGetBatchedImpl(*tensor)) // of vmap
    tensor = &batched->value();
  const c10::TensorImpl& impl = *tensor->unsafeGetTensorImpl();
  const c10::DispatchKeySet keys = impl.key_set();
  if (keys.has(c10::DispatchKey::Functionalize) || impl.has_symbolic_sizes_strides()) {
    ++stand_ins_;
    return;
  }
  if (!keys.has_any(c10::sparse_ks | c10::sparse_csr_ks))
    return plain_tensor(*tensor);
  // A wrapper may say that it is sparse, and hold nothing itself.
  if (const auto* coo = dynamic_cast<const at::SparseTensorImpl*>(&impl))
    return parts({{coo->indices(), Word("indices")}, {coo->values(), Word("values")}});
  if (const auto* csr = dynamic_cast<const at::SparseCsrTensorImpl*>(&impl))
    return parts({{csr->compressed_indices(), Word("compressed indices")},
                  {csr->plain_indices(), Word("indices")},
                  {csr->values(), Word("values")}});
  plain_tensor(*tensor);
}

void CallTensors::parts(std::initializer_list<std::pair<at::Tensor, Word>> parts) {
  for (const auto& [part, word] : parts) {
    const Name name = Name::word(*this, word);
    plain_tensor(part);
  }
}

void CallTensors::plain_tensor(const at::Tensor& tensor) {
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (!tensor.defined() || impl->has_symbolic_sizes_strides())
    return;
  c10::StorageImpl* storage = nullptr;
  if (impl->has_storage())
    storage = impl->unsafe_storage().unsafeGetStorageImpl();
  // What holds its memory in another way (of a functorch transform, of a library) is no stand-in.
  const bool is_opaque = storage == nullptr && !impl->is_python_dispatch();
  if (!is_opaque &&
      (!storage || storage->device().is_meta() || storage->sym_nbytes().is_heap_allocated())) {
    ++stand_ins_;
    return;
  }
  if (found_.size() >= kMostTensors) {
    ++left_out_;
    return;
  }
  const uint64_t path = innermost_ ? innermost_->path() : kNoPath;
  const size_t place = found_.size();
  if (place == names_.size())
    names_.emplace_back();
  if (KnownName& known = names_[place]; known.path != path)
    known = {path, innermost_ ? innermost_->text() : std::string()};
  found_.push_back({impl, path, in_cache_});
}

PyObject* called_module(PyObject* module, const CallClasses& classes) noexcept {
  if (!is_a(module, classes.module))
    return module;
  static const Key modules("_modules"), original("_orig_mod");
  PyObject* const inner = original.in(modules.of(module));
  return inner && is_a(inner, classes.module) ? inner : module;
}

} // namespace memtrace
