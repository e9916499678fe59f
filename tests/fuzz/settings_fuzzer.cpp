// Any text as the settings of torch's allocator: sizes keep to its rules whatever they say.
#include "analyse/allocator_settings.h"

#include <array>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto settings =
      memtrace::AllocatorSettings::from_json({reinterpret_cast<const char*>(data), size});
  if (!(settings.garbage_collection_threshold >= 0 && settings.garbage_collection_threshold < 1))
    std::abort();
  constexpr std::array<uint64_t, 9> kSizes = {
      0, 1, 511, 513, 1'000'000, 1'048'577, 20'971'520, uint64_t{1} << 36, (uint64_t{1} << 47) - 1};
  for (const uint64_t bytes : kSizes) {
    const uint64_t rounded = settings.round(bytes);
    if (rounded < bytes || rounded % memtrace::kSmallestBlockBytes != 0 ||
        settings.segment_bytes(rounded) < rounded)
      std::abort();
    (void)settings.splits(rounded, bytes);
  }
  return 0;
}
