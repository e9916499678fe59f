// Any text as a JSON note. What is read and written again reads as the same.
#include "analyse/json.h"

#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto value = memtrace::Json::parse(text);
  if (!value)
    return 0;
  (void)value->number();
  (void)value->integer();
  (void)value->address();
  const std::string written = value->dump();
  const auto again = memtrace::Json::parse(written);
  if (!again || again->dump() != written)
    std::abort();
  return 0;
}
