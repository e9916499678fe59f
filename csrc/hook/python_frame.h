// How CPython 3.10 to 3.13 lay out a running frame. The only file that includes CPython's
// internals.
//
// Reads only: no reference is taken, nothing needs the GIL. A frame may be read by its own thread
// while that is in C: its code, its place and its arguments cannot change meanwhile, and the frame
// holds references to them.
#pragma once

#define Py_BUILD_CORE 1
#include <Python.h>
#if PY_VERSION_HEX >= 0x030B0000
#include <internal/pycore_frame.h>
#else
#include <frameobject.h>
#endif

#include <cstdint>

#if PY_VERSION_HEX < 0x030A0000 || PY_VERSION_HEX >= 0x030E0000
#error "the layout of frames is known for CPython 3.10 to 3.13"
#endif

namespace memtrace {

#ifdef Py_GIL_DISABLED
constexpr bool kFramesKnown = false; // deaths could not be told from births without the GIL
#else
constexpr bool kFramesKnown = true;
#endif

#if PY_VERSION_HEX >= 0x030B0000
using RawFrame = _PyInterpreterFrame;
#else
using RawFrame = PyFrameObject;
#endif

inline RawFrame* innermost_frame(PyThreadState* thread) noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return thread->current_frame;
#elif PY_VERSION_HEX >= 0x030B0000
  return thread->cframe ? thread->cframe->current_frame : nullptr;
#else
  return thread->frame;
#endif
}

inline RawFrame* outer_frame(const RawFrame* frame) noexcept {
#if PY_VERSION_HEX >= 0x030B0000
  return frame->previous;
#else
  return frame->f_back;
#endif
}

// Its code object; in 3.12 and 3.13 also what stands for one in the entry frames of C calls.
inline const void* frame_code(const RawFrame* frame) noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return frame->f_executable;
#else
  return frame->f_code;
#endif
}

// A word that together with the code tells where in it the frame is; cheaper than the offset, since
// the code object itself is not read.
inline uint64_t frame_place(const RawFrame* frame) noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return reinterpret_cast<uintptr_t>(frame->instr_ptr);
#elif PY_VERSION_HEX >= 0x030B0000
  return reinterpret_cast<uintptr_t>(frame->prev_instr);
#else
  return reinterpret_cast<uintptr_t>(frame->f_code) +
         static_cast<uint64_t>(frame->f_lasti) * 0xC2B2AE3D27D4EB4FULL;
#endif
}

// The argument `self` of a method; null when it was deleted.
inline PyObject* first_local(const RawFrame* frame) noexcept {
#if PY_VERSION_HEX >= 0x030B0000
  return frame->localsplus[0];
#else
  return frame->f_localsplus[0];
#endif
}

// Is it a frame that a traceback would show? Not so: entry frames of C calls (3.12 on), and frames
// that have not yet reached their first instruction proper.
inline bool is_visible(const RawFrame* frame) noexcept {
  const void* code = frame_code(frame);
  if (!code || Py_TYPE(static_cast<const PyObject*>(code)) != &PyCode_Type)
    return false;
#if PY_VERSION_HEX >= 0x030C0000
  if (frame->owner == FRAME_OWNED_BY_CSTACK)
    return false;
#endif
#if PY_VERSION_HEX >= 0x030B0000
  return !_PyFrame_IsIncomplete(const_cast<RawFrame*>(frame));
#else
  return true;
#endif
}

// Offset of the running instruction in bytes, as co_lines() counts; of visible frames only.
inline int frame_offset(const RawFrame* frame) noexcept {
#if PY_VERSION_HEX >= 0x030B0000
  return _PyInterpreterFrame_LASTI(const_cast<RawFrame*>(frame)) *
         static_cast<int>(sizeof(_Py_CODEUNIT));
#else
  return frame->f_lasti * static_cast<int>(sizeof(_Py_CODEUNIT));
#endif
}

} // namespace memtrace
