#!/bin/sh
# The tests of the stack walk with its code built for AddressSanitizer and UBSan.
#
#     tests/hook/run_asan.sh [PYTHON]
#
# Python itself is not instrumented, so its own leaks at exit are not looked for, and its objects
# come from malloc: a freed one that is read is found. Greenlets copy pieces of the C stack, which
# the sanitizer may take for an overflow: six of their tests are left out.
set -eu
cd "$(dirname "$0")/../.."
cxx=${CXX:-c++}
export MEMTRACE_SANITIZE=address,undefined
export PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# libstdc++ as well: without it the sanitizer finds no __cxa_throw to wrap.
preload="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libstdc++.so)"
exec env LD_PRELOAD="$preload" "${1:-python3}" -m pytest -q -p no:cacheprovider \
  tests/hook/test_python_stack.py tests/hook/test_hazards_stack.py \
  tests/hook/test_outermost_call.py tests/hook/test_instance_attributes.py \
  tests/hook/test_frozen_frames.py \
  --deselect tests/hook/test_frozen_frames.py::test_greenlets_that_leave_in_the_middle \
  --deselect tests/hook/test_frozen_frames.py::test_a_greenlet_whose_call_returns_within_that_of_another \
  --deselect tests/hook/test_frozen_frames.py::test_a_greenlet_that_ends_in_the_middle_of_a_call \
  --deselect tests/hook/test_outermost_call.py::test_greenlets \
  --deselect tests/hook/test_outermost_call.py::test_a_greenlet_that_never_goes_on \
  --deselect tests/hook/test_outermost_call.py::test_calls_far_below_those_of_greenlets_that_were_left
