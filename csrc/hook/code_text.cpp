#include <Python.h>

#include "hook/code_text.h"

#include <cstdint>

namespace memtrace {
namespace {

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c >= 0xD800 && c < 0xE000) {
    out += '?';
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

template <typename Unit> void append_units(std::string& out, const void* data, Py_ssize_t length) {
  const Unit* units = static_cast<const Unit*>(data);
  for (Py_ssize_t i = 0; i < length; ++i)
    append_utf8(out, units[i]);
}

struct Bytes {
  const uint8_t* at;
  const uint8_t* end;

  bool empty() const noexcept { return at >= end; }
  uint8_t next() noexcept { return at < end ? *at++ : 0; }
};

Bytes line_table(const PyCodeObject* code) noexcept {
  PyObject* table = code->co_linetable;
  const auto* start = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(table));
  return {start, start + PyBytes_GET_SIZE(table)};
}

#if PY_VERSION_HEX >= 0x030B0000
// Objects/locations.md: entries of one head byte 1cccclll and what the code c needs; l + 1 units of
// two bytes. A varint has six bits per byte, 0x40 for "more"; a signed one keeps its sign in bit 0.
int varint(Bytes& bytes) noexcept {
  uint32_t value = 0;
  for (uint32_t shift = 0; shift < 32; shift += 6) {
    const uint8_t byte = bytes.next();
    value |= static_cast<uint32_t>(byte & 0x3F) << shift;
    if (!(byte & 0x40))
      break;
  }
  return static_cast<int>(value);
}

int signed_varint(Bytes& bytes) noexcept {
  const auto value = static_cast<uint32_t>(varint(bytes));
  return value & 1 ? -static_cast<int>(value >> 1) : static_cast<int>(value >> 1);
}

int find_line(const PyCodeObject* code, int offset) noexcept {
  constexpr int kNone = 15, kLong = 14, kNoColumns = 13, kOneLine0 = 10;
  Bytes bytes = line_table(code);
  int line = code->co_firstlineno;
  int end = 0;
  while (!bytes.empty()) {
    const uint8_t head = bytes.next();
    const int kind = head >> 3 & 15;
    end += ((head & 7) + 1) * 2;
    if (kind == kLong || kind == kNoColumns)
      line += signed_varint(bytes);
    else if (kind >= kOneLine0 && kind < kNoColumns)
      line += kind - kOneLine0;
    if (offset < end)
      return kind == kNone ? -1 : line;
    while (!bytes.empty() && !(*bytes.at & 0x80)) // columns; heads have the top bit
      ++bytes.at;
  }
  return -1;
}
#else
// Objects/lnotab_notes.txt: pairs of (bytes of code, change of line; -128: no line).
int find_line(const PyCodeObject* code, int offset) noexcept {
  Bytes bytes = line_table(code);
  int line = code->co_firstlineno;
  int end = 0;
  while (!bytes.empty()) {
    end += bytes.next();
    const auto change = static_cast<int8_t>(bytes.next());
    if (change != -128)
      line += change;
    if (offset < end)
      return change == -128 ? -1 : line;
  }
  return -1;
}
#endif

const PyCodeObject* as_code(const PyObject* code) noexcept {
  return reinterpret_cast<const PyCodeObject*>(code);
}

} // namespace

std::string utf8_of(const PyObject* text) {
  auto* object = const_cast<PyObject*>(text);
  std::string out;
  if (!object || !PyUnicode_Check(object))
    return "?";
#if PY_VERSION_HEX < 0x030C0000
  if (!PyUnicode_IS_READY(object))
    return "?";
#endif
  const void* data = PyUnicode_DATA(object);
  const Py_ssize_t length = PyUnicode_GET_LENGTH(object);
  switch (static_cast<int>(PyUnicode_KIND(object))) {
  case PyUnicode_1BYTE_KIND:
    if (PyUnicode_IS_ASCII(object))
      out.assign(static_cast<const char*>(data), static_cast<size_t>(length));
    else
      append_units<Py_UCS1>(out, data, length);
    break;
  case PyUnicode_2BYTE_KIND:
    append_units<Py_UCS2>(out, data, length);
    break;
  default:
    append_units<Py_UCS4>(out, data, length);
  }
  return out;
}

std::string function_name(const PyObject* code) {
#if PY_VERSION_HEX >= 0x030B0000
  return utf8_of(as_code(code)->co_qualname);
#else
  return utf8_of(as_code(code)->co_name);
#endif
}

std::string file_name(const PyObject* code) {
  return utf8_of(as_code(code)->co_filename);
}

int line_at(const PyObject* code, int offset) noexcept {
  const int line = offset < 0 ? -1 : find_line(as_code(code), offset);
  return line < 0 ? as_code(code)->co_firstlineno : line;
}

} // namespace memtrace
