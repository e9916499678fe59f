# memtrace._hook, compiled when torch is in the build environment. Its file name carries the torch
# version, C++ ABI and Python tag it was built for; memtrace.hook picks the one that fits.
execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/src/memtrace/hook/torch_build.py
  OUTPUT_VARIABLE MEMTRACE_TORCH
  RESULT_VARIABLE MEMTRACE_TORCH_STATUS
  ERROR_VARIABLE MEMTRACE_TORCH_WHY
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
if(NOT MEMTRACE_TORCH_STATUS EQUAL 0)
  message(STATUS "memtrace: no hook is built (${MEMTRACE_TORCH_WHY}); `memtrace build-hook` does it later")
  return()
endif()
# One line: file name;C++ ABI;torch's lib folder;include folders...
list(POP_FRONT MEMTRACE_TORCH HOOK_NAME HOOK_CXX11_ABI HOOK_TORCH_LIB)
message(STATUS "memtrace: building ${HOOK_NAME}")

file(GLOB MEMTRACE_HOOK_SOURCES CONFIGURE_DEPENDS csrc/hook/*.cpp csrc/bind/hook_module.cpp)
add_library(_hook MODULE ${MEMTRACE_HOOK_SOURCES})
target_include_directories(_hook PRIVATE csrc)
target_include_directories(_hook SYSTEM PRIVATE ${MEMTRACE_TORCH})
target_compile_definitions(_hook PRIVATE _GLIBCXX_USE_CXX11_ABI=${HOOK_CXX11_ABI}
                           C10_CUDA_NO_CMAKE_CONFIGURE_FILE)
target_link_libraries(_hook PRIVATE memtrace_warnings Python::Module
                      ${HOOK_TORCH_LIB}/libc10.so ${HOOK_TORCH_LIB}/libtorch_cpu.so
                      ${HOOK_TORCH_LIB}/libtorch_python.so)
set_target_properties(_hook PROPERTIES PREFIX "" SUFFIX "" OUTPUT_NAME "${HOOK_NAME}"
                      SKIP_BUILD_RPATH ON)
install(TARGETS _hook LIBRARY DESTINATION memtrace/_hooks)
