// What a code object is called and which line it is at, read without the GIL.
//
// CPython's own functions would cache what they compute in the object (PyUnicode_AsUTF8) or read a
// table that another thread is filling (3.11's _co_linearray), so the bytes are decoded here.
#pragma once

#include <string>

using PyObject = struct _object;

namespace memtrace {

// UTF-8; lone surrogates become "?". Not a str, or a str of 3.10 that is not ready: "?".
std::string utf8_of(const PyObject* text);
// co_qualname, or co_name in 3.10.
std::string function_name(const PyObject* code);
std::string file_name(const PyObject* code);
// Of the instruction at `offset` bytes; the first line of the code where none is recorded.
int line_at(const PyObject* code, int offset) noexcept;

} // namespace memtrace
