// A library's exported functions and import slots, as torch's are found by the shortcut.
#include "hook/shared_library.h"

#include <algorithm>
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <map>
#include <string>

using memtrace::SharedLibrary;

namespace {

using Function = int (*)(int);

struct Loaded {
  explicit Loaded(const char* path) : handle(dlopen(path, RTLD_LAZY | RTLD_LOCAL)) {
    REQUIRE(handle);
  }
  ~Loaded() { dlclose(handle); }
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;

  Function function(const char* name) const {
    return reinterpret_cast<Function>(dlsym(handle, name));
  }
  uintptr_t address(const char* name) const { return reinterpret_cast<uintptr_t>(function(name)); }

  void* handle;
};

int replaced(int value) {
  return value + 2;
}

} // namespace

TEST_CASE("the exported functions of a library") {
  const Loaded loaded(MEMTRACE_LINKED_LAZILY);
  const auto library = SharedLibrary::containing(loaded.address("linked_outer"));
  REQUIRE(library);
  std::map<std::string, SharedLibrary::Function> found;
  library->for_each_function(
      [&](const auto& function) { found.emplace(std::string(function.name), function); });
  for (const char* name : {"linked_inner", "linked_outer"}) {
    REQUIRE(found.contains(name));
    CHECK(found.at(name).begin == loaded.address(name));
    CHECK(found.at(name).end > found.at(name).begin);
  }
  CHECK_FALSE(found.contains("linked_by_nobody"));
  CHECK(library->contains(loaded.address("linked_inner")));
  CHECK_FALSE(library->contains(reinterpret_cast<uintptr_t>(&replaced)));
}

TEST_CASE("whoever stores into an import slot gets the library's calls, until it is put back") {
  const Loaded loaded(MEMTRACE_LINKED_LAZILY);
  const Function outer = loaded.function("linked_outer");
  const auto library = SharedLibrary::containing(loaded.address("linked_outer"));
  REQUIRE(library);
  for (int turn = 0; turn < 2; ++turn) { // not bound yet; bound
    const auto slot = library->import_slot("linked_inner");
    REQUIRE(slot);
    CHECK(library->contains(slot->load()));
    slot->store(reinterpret_cast<uintptr_t>(&replaced));
    CHECK(outer(1) == 30);
    slot->store(loaded.address("linked_inner"));
    CHECK(outer(1) == 20);
  }
  CHECK_FALSE(library->import_slot("linked_outer")); // nobody calls it
  CHECK_FALSE(library->import_slot("linked_inn"));
}

TEST_CASE("a slot that the linker has protected is not given out") {
  const Loaded loaded(MEMTRACE_LINKED_NOW);
  const auto library = SharedLibrary::containing(loaded.address("linked_outer"));
  REQUIRE(library);
  CHECK_FALSE(library->import_slot("linked_inner"));
  CHECK(loaded.function("linked_outer")(1) == 20);
}

TEST_CASE("the variables of a library, with and without a value from the start") {
  for (const char* path : {MEMTRACE_LINKED_LAZILY, MEMTRACE_LINKED_NOW}) {
    const Loaded loaded(path);
    const auto library = SharedLibrary::containing(loaded.address("linked_outer"));
    REQUIRE(library);
    const auto variables = library->variables();
    CHECK(variables.size() > 1000);
    CHECK(library->contains(reinterpret_cast<uintptr_t>(&variables.front())));
    CHECK(library->contains(reinterpret_cast<uintptr_t>(&variables.back())));
    const auto set = reinterpret_cast<void (*)(unsigned long)>(dlsym(loaded.handle, "linked_set"));
    constexpr unsigned long kValue = 0x6A09E667F3BCC908;
    const auto is_set = [](const auto& word) { return word.load() == kValue; };
    CHECK(std::ranges::count_if(variables, is_set) == 0);
    set(kValue);
    CHECK(std::ranges::count_if(variables, is_set) == 2);
  }
}

TEST_CASE("an address that lies in no library") {
  const int local = 0;
  CHECK_FALSE(SharedLibrary::containing(reinterpret_cast<uintptr_t>(&local)));
  CHECK_FALSE(SharedLibrary::containing(0));
}
