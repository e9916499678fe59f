// Tells an object from a later one at the same address, without holding a reference to it.
//
// An object that a stack refers to is *watched* from its first sight until it dies. Its death is
// seen in the tp_dealloc of a static type: PyCode_Type for code, PyBaseObject_Type for instances of
// Python classes (subtype_dealloc ends there). Nothing that a Python program can look at is
// changed. Invariants:
//   - salt(p) changes between the death of a watched object at p and the birth of another at p, so
//   a
//     hash over (p, salt(p)) never meets an entry that a dead object made;
//   - watch() may be called by a thread that keeps the object alive (a running frame does); no GIL;
//   - deaths come under the GIL and never wait for anything but the short lock of the watch list.
#pragma once

#include <atomic>
#include <cstdint>

using PyObject = struct _object;
using PyTypeObject = struct _typeobject;

namespace memtrace {

constexpr uint32_t kSaltBits = 11;
inline std::atomic<uint32_t> g_salts[1U << kSaltBits];

// Many objects share a salt: a change only sends their stacks through the slow path once more. So
// the bits of the address are good enough, and every instruction here is paid per frame.
inline std::atomic<uint32_t>& salt_slot(const void* object) noexcept {
  return g_salts[reinterpret_cast<uintptr_t>(object) >> 6 & ((1U << kSaltBits) - 1)];
}
inline uint64_t salt(const void* object) noexcept {
  return salt_slot(object).load(std::memory_order_relaxed);
}

// A number of this very object, the same until it dies; never 0.
uint64_t watch_code(const void* code) noexcept;
// 0: instances of this type do not die through PyBaseObject_Type, so their death cannot be seen.
uint64_t watch_instance(const PyObject* object) noexcept;
// Under the GIL: is the object that was given this number still alive and not in its destructor?
bool is_alive(const PyObject* object, uint64_t number) noexcept;
// No GIL needed: has it not been seen to die?
bool is_watched(const PyObject* object, uint64_t number) noexcept;

// Under the GIL. `python_class` is any class made by a class statement; its dealloc is CPython's
// subtype_dealloc, which watch_instance() needs to know.
void hook_code_deaths() noexcept;
void hook_instance_deaths(PyTypeObject* python_class) noexcept;
// Puts the slots back and forgets every watched object (their salts change).
void unhook_deaths() noexcept;

} // namespace memtrace
