#include "hook/shared_library.h"

#include <algorithm>
#include <span>

namespace memtrace {
namespace {

constexpr auto symbol_of(ElfW(Xword) info) noexcept {
  static_assert(sizeof info == 8);
  return info >> 32;
}

} // namespace

std::optional<SharedLibrary> SharedLibrary::containing(uintptr_t address) {
  struct Search {
    uintptr_t address = 0;
    std::optional<SharedLibrary> found;
  } search{address, std::nullopt};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* given) {
        auto& wanted = *static_cast<Search*>(given);
        SharedLibrary library(*info);
        if (!library.contains(wanted.address))
          return 0;
        if (library.read_dynamic_section())
          wanted.found = library;
        return 1;
      },
      &search);
  return search.found;
}

// False: it has no table of symbols.
bool SharedLibrary::read_dynamic_section() {
  const auto dynamic = std::ranges::find(segments_, PT_DYNAMIC, &ElfW(Phdr)::p_type);
  if (dynamic == segments_.end())
    return false;
  bool has_addends = false;
  for (const auto* entry = at_address<const ElfW(Dyn)*>(base_ + dynamic->p_vaddr); entry->d_tag;
       ++entry) {
    // The linker has added the base to addresses, but not in every C library.
    const uintptr_t given = entry->d_un.d_ptr;
    const uintptr_t address = given < base_ ? base_ + given : given;
    switch (entry->d_tag) {
    case DT_SYMTAB:
      symbols_ = at_address<const ElfW(Sym)*>(address);
      break;
    case DT_STRTAB:
      names_ = at_address<const char*>(address);
      break;
    case DT_GNU_HASH:
      gnu_hash_ = at_address<const uint32_t*>(address);
      break;
    case DT_HASH:
      sysv_hash_ = at_address<const uint32_t*>(address);
      break;
    case DT_JMPREL:
      imports_ = at_address<const ElfW(Rela)*>(address);
      break;
    case DT_PLTRELSZ:
      import_count_ = entry->d_un.d_val / sizeof(ElfW(Rela));
      break;
    case DT_PLTREL:
      has_addends = entry->d_un.d_val == DT_RELA;
      break;
    default:
      break;
    }
  }
  if (!imports_ || !has_addends)
    import_count_ = 0;
  return symbols_ != nullptr && names_ != nullptr &&
         (gnu_hash_ != nullptr || sysv_hash_ != nullptr);
}

bool SharedLibrary::lies_in_segment(uintptr_t address, ElfW(Word) type) const noexcept {
  return std::ranges::any_of(segments_, [&](const ElfW(Phdr) & segment) {
    return segment.p_type == type && address - base_ - segment.p_vaddr < segment.p_memsz;
  });
}

bool SharedLibrary::contains(uintptr_t address) const noexcept {
  return lies_in_segment(address, PT_LOAD);
}

// No table says it: in the GNU one, the last symbol of the last chain is the last of all.
size_t SharedLibrary::symbol_count() const noexcept {
  if (!gnu_hash_)
    return sysv_hash_[1];
  const uint32_t bucket_count = gnu_hash_[0], first_hashed = gnu_hash_[1];
  const uint32_t filter_words = gnu_hash_[2] * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
  const std::span buckets(gnu_hash_ + 4 + filter_words, bucket_count);
  const uint32_t* const chains = buckets.data() + bucket_count;
  uint32_t last = std::ranges::max(buckets);
  if (last < first_hashed)
    return first_hashed;
  while (!(chains[last - first_hashed] & 1))
    ++last;
  return last + 1;
}

void SharedLibrary::for_each_function(const std::function<void(const Function&)>& visit) const {
  for (const ElfW(Sym) & symbol : std::span(symbols_, symbol_count())) {
    if ((symbol.st_info & 0xF) != STT_FUNC || symbol.st_shndx == SHN_UNDEF)
      continue;
    const uintptr_t begin = base_ + symbol.st_value;
    visit({name_of(symbol), begin, begin + symbol.st_size});
  }
}

std::optional<ImportSlot> SharedLibrary::import_slot(std::string_view name) const {
  for (const ElfW(Rela) & import : std::span(imports_, import_count_)) {
    if (name != name_of(symbols_[symbol_of(import.r_info)]))
      continue;
    const uintptr_t slot = base_ + import.r_offset;
    if (lies_in_segment(slot, PT_GNU_RELRO))
      return std::nullopt;
    return ImportSlot(*at_address<uintptr_t*>(slot));
  }
  return std::nullopt;
}

// The segment that ends in zeros which are not in the file (.bss), after what the linker protects.
std::span<const std::atomic<uintptr_t>> SharedLibrary::variables() const noexcept {
  constexpr auto whole_words = [](uintptr_t address) { return address & ~(sizeof address - 1); };
  const auto segment = std::ranges::find_if(segments_, [](const ElfW(Phdr) & each) {
    return each.p_type == PT_LOAD && (each.p_flags & PF_W) && each.p_memsz > each.p_filesz;
  });
  if (segment == segments_.end())
    return {};
  uintptr_t begin = segment->p_vaddr;
  const uintptr_t end = begin + segment->p_memsz;
  for (const ElfW(Phdr) & each : segments_)
    if (each.p_type == PT_GNU_RELRO && each.p_vaddr <= begin)
      begin = std::clamp(each.p_vaddr + each.p_memsz, begin, end);
  begin = whole_words(base_ + begin + sizeof begin - 1);
  return {at_address<const std::atomic<uintptr_t>*>(begin),
          (whole_words(base_ + end) - begin) / sizeof begin};
}

} // namespace memtrace
