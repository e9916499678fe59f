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
    return counts_[place(object)].load(std::memory_order_relaxed) != 0;
  }
  void add(const void* object) noexcept {
    auto& count = counts_[place(object)];
    const uint8_t now = count.load(std::memory_order_relaxed);
    if (now != kFull)
      count.store(static_cast<uint8_t>(now + 1), std::memory_order_relaxed);
  }
  void remove(const void* object) noexcept {
    auto& count = counts_[place(object)];
    const uint8_t now = count.load(std::memory_order_relaxed);
    if (now != kFull) // a full counter no longer knows its count: it stays
      count.store(static_cast<uint8_t>(now - 1), std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kBits = 15;
  static constexpr uint8_t kFull = 255;
  static uint64_t place(const void* object) noexcept {
    return (reinterpret_cast<uintptr_t>(object) >> 4) * 0x9E3779B97F4A7C15ULL >> (64 - kBits);
  }
  std::atomic<uint8_t> counts_[1U << kBits] = {};
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
    salt_slot(object).fetch_add(1, std::memory_order_relaxed);
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
WatchList* g_codes = nullptr;
WatchList* g_instances = nullptr;
destructor g_subtype_dealloc = nullptr;

void code_dies(PyObject* code);
void object_dies(PyObject* object);

// One slot of a static type, ours while `placed`.
struct DeallocHook {
  PyTypeObject* type = nullptr;
  destructor ours = nullptr;
  destructor original = nullptr;
  bool placed = false;

  void place() noexcept {
    if (placed)
      return;
    original = type->tp_dealloc;
    type->tp_dealloc = ours;
    placed = true;
  }
  void remove() noexcept {
    // Somebody may have put theirs on top of ours: then ours has to stay under it.
    if (!placed || type->tp_dealloc != ours)
      return;
    type->tp_dealloc = original;
    placed = false;
  }
};
DeallocHook g_code_hook{&PyCode_Type, code_dies};
DeallocHook g_object_hook{&PyBaseObject_Type, object_dies};

void code_dies(PyObject* code) {
  g_codes->died(code);
  g_code_hook.original(code);
}

void object_dies(PyObject* object) {
  g_instances->died(object);
  g_object_hook.original(object);
}

void prepare_lists() noexcept {
  if (g_codes)
    return;
  // NOLINTBEGIN(bugprone-unhandled-exception-at-new): once, at the start of a recording; a program
  // that has no memory left for it is at its end anyway
  g_codes = new WatchList;
  g_instances = new WatchList;
  // NOLINTEND(bugprone-unhandled-exception-at-new)
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

uint64_t watch_code(const void* code) noexcept {
  return g_codes->watch(code);
}

uint64_t watch_instance(const PyObject* object) noexcept {
  if (!g_object_hook.placed)
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
  return is_watched(object, number) && Py_REFCNT(object) > 0;
}

bool is_watched(const PyObject* object, uint64_t number) noexcept {
  return g_instances != nullptr && g_instances->holds(object, number);
}

void hook_code_deaths() noexcept {
  prepare_lists();
  g_code_hook.place();
}

void hook_instance_deaths(PyTypeObject* python_class) noexcept {
  prepare_lists();
  g_subtype_dealloc = python_class->tp_dealloc;
  g_object_hook.place();
}

void unhook_deaths() noexcept {
  if (!g_codes)
    return;
  g_code_hook.remove();
  g_object_hook.remove();
  g_codes->forget_all();
  g_instances->forget_all();
  // Deaths go unseen from here on, so what was entered until now must never be met again.
  for (auto& slot : g_salts)
    slot.fetch_add(1, std::memory_order_relaxed);
}

} // namespace memtrace
