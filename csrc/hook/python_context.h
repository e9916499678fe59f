// How CPython 3.10 to 3.13 lay out a context: the values that `contextvars` holds for a task.
//
// Reads only, by the thread that is in the context: no reference is taken, nothing needs the GIL. A
// thread's context, and which map of values it has, are changed by that thread alone; maps and
// their nodes never change (Python/hamt.c).
#pragma once

#include <Python.h>

#include <bit>
#include <cstdint>
#include <string_view>

namespace memtrace {

struct RawContext {
  PyObject ob_base;
  PyObject* previous;
  PyObject* values; // RawContextMap
};

struct RawContextMap {
  PyObject ob_base;
  PyObject* root;
};

struct RawArrayNode {
  PyObject ob_base;
  PyObject* children[32];
};

// Pairs of key and value; in a bitmap node a null key says that the value is a node below.
struct RawBitmapNode {
  PyVarObject ob_base;
  uint32_t bitmap;
  PyObject* pairs[1];
};

struct RawCollisionNode {
  PyVarObject ob_base;
  int32_t hash;
  PyObject* pairs[1];
};

// A variable by its address, and its hash as maps use it.
struct ContextVariable {
  PyObject* object = nullptr;
  uint32_t hash = 0;

  // Under the GIL. The object must live for ever.
  static ContextVariable of(PyObject* variable) {
    const auto whole = static_cast<uint64_t>(PyObject_Hash(variable));
    const uint32_t folded = static_cast<uint32_t>(whole) ^ static_cast<uint32_t>(whole >> 32U);
    return {variable, folded == UINT32_MAX ? UINT32_MAX - 1 : folded};
  }
};

// The variable's value in the context that the thread is in, borrowed; null: it has none there.
inline PyObject* value_in_context(PyThreadState* thread, const ContextVariable& variable) noexcept {
  if (!thread->context)
    return nullptr;
  const auto* context = reinterpret_cast<const RawContext*>(thread->context);
  PyObject* node = reinterpret_cast<const RawContextMap*>(context->values)->root;
  for (uint32_t shift = 0; node; shift += 5) {
    const std::string_view type = Py_TYPE(node)->tp_name;
    const uint32_t place = shift < 32 ? (variable.hash >> shift) & 0x1fU : 0;
    if (type == "hamt_array_node") {
      node = reinterpret_cast<const RawArrayNode*>(node)->children[place];
      continue;
    }
    if (type == "hamt_bitmap_node") {
      const auto* bitmap = reinterpret_cast<const RawBitmapNode*>(node);
      const uint32_t bit = 1U << place;
      if ((bitmap->bitmap & bit) == 0)
        return nullptr;
      PyObject* const* pair = bitmap->pairs + size_t{2} * std::popcount(bitmap->bitmap & (bit - 1));
      if (pair[0])
        return pair[0] == variable.object ? pair[1] : nullptr;
      node = pair[1];
      continue;
    }
    if (type != "hamt_collision_node")
      return nullptr;
    const auto* collision = reinterpret_cast<const RawCollisionNode*>(node);
    for (Py_ssize_t i = 0; i + 1 < Py_SIZE(node); i += 2)
      if (collision->pairs[i] == variable.object)
        return collision->pairs[i + 1];
    return nullptr;
  }
  return nullptr;
}

} // namespace memtrace
