#include <Python.h>

#include "hook/object_identity.h"

#include <pthread.h>

#include <mutex>
#include <unordered_map>

namespace memtrace {
namespace {

// Which watched addresses may be in the list: lets nearly every death pass with one load.
class AddressFilter {
 public:
  bool may_hold(const void* object) const noexcept {
    return counts_[address_hash(object, kBits)].load(std::memory_order_relaxed) != 0;
  }
  void add(const void* object) noexcept {
    auto& count = counts_[address_hash(object, kBits)];
    const uint8_t now = count.load(std::memory_order_relaxed);
    if (now != kFull)
      count.store(static_cast<uint8_t>(now + 1), std::memory_order_relaxed);
  }
  void remove(const void* object) noexcept {
    auto& count = counts_[address_hash(object, kBits)];
    const uint8_t now = count.load(std::memory_order_relaxed);
    if (now != kFull) // a full counter no longer knows its count: it stays
      count.store(static_cast<uint8_t>(now - 1), std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kBits = 15;
  static constexpr uint8_t kFull = 255;
  std::atomic<uint8_t> counts_[1u << kBits] = {};
};

class WatchList {
 public:
  uint64_t watch(const void* object) noexcept {
    const std::lock_guard lock(mutex_);
    const auto [place, added] = numbers_.try_emplace(object, 0);
    if (added) {
      place->second = ++last_number_;
      filter_.add(object);
    }
    return place->second;
  }

  // Under the GIL, before the object's memory is given back.
  void died(const void* object) noexcept {
    if (!filter_.may_hold(object)) [[likely]]
      return;
    const std::lock_guard lock(mutex_);
    if (numbers_.erase(object) == 0)
      return;
    filter_.remove(object);
    g_salts[address_hash(object, kSaltBits)].fetch_add(1, std::memory_order_relaxed);
  }

  bool holds(const void* object, uint64_t number) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = numbers_.find(object);
    return found != numbers_.end() && found->second == number;
  }

  void forget_all() noexcept {
    const std::lock_guard lock(mutex_);
    for (const auto& [object, number] : numbers_)
      filter_.remove(object);
    numbers_.clear();
  }

  // Around fork(): the child must not inherit a lock that a vanished thread holds.
  void lock() noexcept { mutex_.lock(); }
  void unlock() noexcept { mutex_.unlock(); }

 private:
  std::mutex mutex_;
  AddressFilter filter_;
  std::unordered_map<const void*, uint64_t> numbers_;
  uint64_t last_number_ = 0;
};

// Never destroyed: objects die until the last moment of the process.
WatchList& codes() noexcept {
  static WatchList* list = new WatchList;
  return *list;
}
WatchList& instances() noexcept {
  static WatchList* list = new WatchList;
  return *list;
}

WatchList* g_codes = nullptr;
WatchList* g_instances = nullptr;
destructor g_code_dealloc = nullptr;
destructor g_object_dealloc = nullptr;
destructor g_subtype_dealloc = nullptr;

void code_dies(PyObject* code) {
  g_codes->died(code);
  g_code_dealloc(code);
}

void object_dies(PyObject* object) {
  g_instances->died(object);
  g_object_dealloc(object);
}

void prepare_lists() noexcept {
  if (g_codes)
    return;
  g_codes = &codes();
  g_instances = &instances();
  pthread_atfork(
      [] {
        g_codes->lock();
        g_instances->lock();
      },
      [] {
        g_instances->unlock();
        g_codes->unlock();
      },
      [] {
        g_instances->unlock();
        g_codes->unlock();
      });
}

} // namespace

uint64_t watch_code(const void* code) noexcept { return g_codes->watch(code); }

uint64_t watch_instance(const PyObject* object) noexcept {
  if (!g_instances || !g_subtype_dealloc)
    return 0;
  // The way that subtype_dealloc itself looks for the dealloc that ends the object.
  const PyTypeObject* base = Py_TYPE(object);
  while (base && base->tp_dealloc == g_subtype_dealloc)
    base = base->tp_base;
  if (!base || base->tp_dealloc != object_dies)
    return 0;
  return g_instances->watch(object);
}

bool is_alive(const PyObject* object, uint64_t number) noexcept {
  // While it is on the list its memory is there; in its destructor its count is 0.
  return g_instances && g_instances->holds(object, number) && Py_REFCNT(object) > 0;
}

void hook_code_deaths() noexcept {
  prepare_lists();
  if (PyCode_Type.tp_dealloc == code_dies)
    return;
  g_code_dealloc = PyCode_Type.tp_dealloc;
  PyCode_Type.tp_dealloc = code_dies;
}

void hook_instance_deaths(PyTypeObject* python_class) noexcept {
  prepare_lists();
  g_subtype_dealloc = python_class->tp_dealloc;
  if (PyBaseObject_Type.tp_dealloc == object_dies)
    return;
  g_object_dealloc = PyBaseObject_Type.tp_dealloc;
  PyBaseObject_Type.tp_dealloc = object_dies;
}

void unhook_deaths() noexcept {
  if (!g_codes)
    return;
  // Somebody may have put a hook of theirs on top of ours: then ours stays under it.
  if (PyCode_Type.tp_dealloc == code_dies)
    PyCode_Type.tp_dealloc = g_code_dealloc;
  if (PyBaseObject_Type.tp_dealloc == object_dies)
    PyBaseObject_Type.tp_dealloc = g_object_dealloc;
  g_codes->forget_all();
  g_instances->forget_all();
  // Deaths go unseen from here on, so what was entered until now must never be met again.
  for (auto& slot : g_salts)
    slot.fetch_add(1, std::memory_order_relaxed);
}

} // namespace memtrace
