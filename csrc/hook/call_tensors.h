// The tensors that a model's call is given, and gives back: found by a walk over its arguments or
// its result that runs no code of the program.
//
// Under the GIL. Only what lies in tuples, lists, dicts, tensors and instances' dictionaries is
// looked at, as it lies there: no attribute is asked for, no iterator made, no reference taken.
// Bounded in depth and number: what a call is given may hang together with everything.
#pragma once

#include <Python.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace at {
class Tensor;
}
namespace c10 {
struct TensorImpl;
}

namespace memtrace {

// Classes that the walk tells by identity.
struct CallClasses {
  PyTypeObject* tensor = nullptr; // torch.Tensor
  PyTypeObject* module = nullptr; // torch.nn.Module
  // Of modules that the program may import at any time; null: it has not yet.
  PyTypeObject* cache = nullptr;       // transformers.cache_utils.Cache
  PyTypeObject* mamba_cache = nullptr; // of older versions
  PyTypeObject* paged_cache = nullptr; // of continuous batching: PagedAttentionCache
  PyTypeObject* proxy = nullptr;       // torch.fx.Proxy

  // Looks for them in sys.modules, when that has changed.
  void renew() noexcept;

 private:
  Py_ssize_t modules_ = -1; // how many there were
};

struct CallTensor {
  const c10::TensorImpl* tensor; // without a reference: until code of the program runs
  uint64_t path;                 // stands for its name
  bool in_cache;
};

class CallTensors {
 public:
  static constexpr size_t kMostTensors = 4096;
  static constexpr uint64_t kNoPath = 1; // of what stands for no place in a call

  explicit CallTensors(const CallClasses& classes) : classes_(&classes) {}

  // Forgets what was found, as each of these does first. Room and names are kept: the tensors of a
  // call mostly have the names of those of the call before.
  void clear() noexcept;
  // Those of a call of the module with these arguments (as vectorcall has them, without self).
  void read_arguments(PyObject* module, PyObject* const* args, size_t count, PyObject* names);
  // Likewise, of what lies in caches alone.
  void read_caches(PyObject* module, PyObject* const* args, size_t count, PyObject* names);
  // Without the caches that `given` has seen, if they are the same objects.
  void read_result(PyObject* result, const CallTensors& given);

  const std::vector<CallTensor>& found() const { return found_; }
  // Of the one at a place in found(): "input_ids", "past_key_values layer 3 key",
  // "hidden_states[2]"
  std::string_view name(size_t place) const { return names_[place].text; }
  size_t left_out() const { return left_out_; }       // beyond kMostTensors
  bool saw_cache() const { return !caches_.empty(); } // if only an empty one
  // The call is one of a tracer: all that it was given stands for tensors, and has no memory.
  bool only_stand_ins() const { return stand_ins_ > 0 && found_.empty(); }

 private:
  class Name;
  struct Word;
  struct KnownName {
    uint64_t path = 0;
    std::string text;
  };

  void walk_arguments(PyObject* module, PyObject* const* args, size_t count, PyObject* names);
  void object(PyObject* object, unsigned depth);
  void sequence(PyObject* const* items, Py_ssize_t count, PyObject* fields, unsigned depth);
  void dict(PyObject* dict, unsigned depth);
  void attributes(PyObject* object, unsigned depth);
  void cache(PyObject* cache, unsigned depth);
  void cache_part(PyObject* key, PyObject* value, unsigned depth);
  void tensor(PyObject* object, unsigned depth);
  void tensor(const at::Tensor& given);
  // Of a sparse tensor.
  void parts(std::initializer_list<std::pair<at::Tensor, Word>> parts);
  void plain_tensor(const at::Tensor& tensor);

  const CallClasses* classes_;
  const Name* innermost_ = nullptr; // of what the walk is at
  // Of what was found at each place, now or in a walk before.
  std::vector<KnownName> names_;
  bool in_cache_ = false, only_caches_ = false;
  std::vector<const PyObject*> caches_; // the outermost ones
  const CallTensors* given_ = nullptr;
  size_t visits_ = 0, objects_ = 0, left_out_ = 0, stand_ins_ = 0;
  std::vector<CallTensor> found_;
};

// The module that is called through it: of one that torch.compile made, the program's own.
PyObject* called_module(PyObject* module, const CallClasses& classes) noexcept;

} // namespace memtrace
