# memtrace._hook: for the torch in the build environment, or for all whose headers lie in the folder
# MEMTRACE_TORCH_HEADERS (torch_headers.py). A hook's file name carries the torch version, C++ ABI
# and Python tag it was built for; memtrace.hook picks the one that fits.
set(MEMTRACE_TORCH_HEADERS "" CACHE PATH "Build hooks for the torches whose headers are there")
if(MEMTRACE_TORCH_HEADERS)
  set(MEMTRACE_LISTER cmake/torch_headers.py list ${MEMTRACE_TORCH_HEADERS})
else()
  set(MEMTRACE_LISTER src/memtrace/hook/torch_build.py)
endif()
execute_process(
  COMMAND ${Python_EXECUTABLE} ${MEMTRACE_LISTER}
  WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
  OUTPUT_VARIABLE MEMTRACE_HOOKS
  RESULT_VARIABLE MEMTRACE_TORCH_STATUS
  ERROR_VARIABLE MEMTRACE_TORCH_WHY
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
if(NOT MEMTRACE_TORCH_STATUS EQUAL 0)
  message(STATUS "memtrace: no hook is built (${MEMTRACE_TORCH_WHY}); `memtrace build-hook` does it later")
  return()
endif()

file(GLOB MEMTRACE_HOOK_SOURCES CONFIGURE_DEPENDS csrc/hook/*.cpp csrc/bind/hook_module.cpp)
foreach(HOOK IN LISTS MEMTRACE_HOOKS)
  string(REPLACE "|" ";" HOOK "${HOOK}")
  # File name; C++ ABI; torch's lib folder; include folders...
  list(POP_FRONT HOOK HOOK_NAME HOOK_CXX11_ABI HOOK_TORCH_LIB)
  message(STATUS "memtrace: building ${HOOK_NAME}")
  add_library(${HOOK_NAME} MODULE ${MEMTRACE_HOOK_SOURCES})
  target_include_directories(${HOOK_NAME} PRIVATE csrc)
  target_include_directories(${HOOK_NAME} SYSTEM PRIVATE ${HOOK})
  target_compile_definitions(${HOOK_NAME} PRIVATE _GLIBCXX_USE_CXX11_ABI=${HOOK_CXX11_ABI}
                             C10_CUDA_NO_CMAKE_CONFIGURE_FILE)
  target_link_options(${HOOK_NAME} PRIVATE LINKER:--no-as-needed) # libraries may be empty ones
  target_link_libraries(${HOOK_NAME} PRIVATE memtrace_warnings Python::Module
                        ${HOOK_TORCH_LIB}/libc10.so ${HOOK_TORCH_LIB}/libtorch_cpu.so
                        ${HOOK_TORCH_LIB}/libtorch_python.so)
  set_target_properties(${HOOK_NAME} PROPERTIES PREFIX "" SUFFIX "" SKIP_BUILD_RPATH ON)
  install(TARGETS ${HOOK_NAME} LIBRARY DESTINATION memtrace/_hooks)
endforeach()
