// A library of this process, as the dynamic linker sees it: what it exports, and the slots through
// which it calls exported functions, its own as well. ELF; read-only but for the slots.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <link.h>
#include <optional>
#include <span>
#include <string_view>

namespace memtrace {

// A function's slot in the procedure linkage table's part of the global offset table: whoever
// stores another address there gets the library's calls.
using ImportSlot = std::atomic_ref<uintptr_t>;

// What the linker writes down are numbers.
template <class Pointer> Pointer at_address(uintptr_t address) noexcept {
  return reinterpret_cast<Pointer>(address); // NOLINT(performance-no-int-to-ptr)
}

class SharedLibrary {
 public:
  // That `address` lies in; empty: there is none, or it has no table of symbols of its own.
  static std::optional<SharedLibrary> containing(uintptr_t address);

  bool contains(uintptr_t address) const noexcept;

  // All exported functions, in no order. The names are mangled, and stay as long as the library.
  struct Function {
    std::string_view name;
    uintptr_t begin, end;
  };
  void for_each_function(const std::function<void(const Function&)>& visit) const;

  // Empty: there is none, or it cannot be written to since the linker has bound everything
  // beforehand and protected it (-z now).
  std::optional<ImportSlot> import_slot(std::string_view name) const;

  // Where its variables lie, as words: any of them may change at any time.
  std::span<const std::atomic<uintptr_t>> variables() const noexcept;

 private:
  explicit SharedLibrary(const dl_phdr_info& info) noexcept
      : base_(info.dlpi_addr), segments_(info.dlpi_phdr, info.dlpi_phnum) {}
  bool read_dynamic_section();
  bool lies_in_segment(uintptr_t address, ElfW(Word) type) const noexcept;
  const char* name_of(const ElfW(Sym) & symbol) const noexcept { return names_ + symbol.st_name; }
  size_t symbol_count() const noexcept;

  uintptr_t base_ = 0;
  std::span<const ElfW(Phdr)> segments_;
  const ElfW(Sym) * symbols_ = nullptr;
  const char* names_ = nullptr;
  const uint32_t* gnu_hash_ = nullptr; // of the tables of symbols by hash, the one that is there
  const uint32_t* sysv_hash_ = nullptr;
  const ElfW(Rela) * imports_ = nullptr;
  size_t import_count_ = 0;
};

} // namespace memtrace
