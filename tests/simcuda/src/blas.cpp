// cuBLAS and cuBLASLt: the functions that answer something. All others are stubs that report
// success (see ../build.py). The headers aren't among the packages that simcuda needs, so the few
// types are spelled out here; a status is an int, 0 for success.
#include "runtime.h"

#include <cstring>

namespace {

// cublasLtMatmulHeuristicResult_t
struct HeuristicResult {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96);

constexpr size_t kOpaqueBytes = 512; // more than any opaque descriptor that callers treat as ours
constexpr size_t kLibraryVersion = 130100;

int create(void** handle) {
  *handle = new char[kOpaqueBytes]();
  return 0;
}

int destroy(void* handle) {
  delete[] static_cast<char*>(handle);
  return 0;
}

} // namespace

SIMCUDA_EXPORT int cublasCreate_v2(void** handle) {
  return create(handle);
}

SIMCUDA_EXPORT int cublasDestroy_v2(void* handle) {
  return destroy(handle);
}

SIMCUDA_EXPORT int cublasGetVersion_v2(void*, int* version) {
  *version = static_cast<int>(kLibraryVersion);
  return 0;
}

SIMCUDA_EXPORT int cublasGetMathMode(void*, int* mode) {
  *mode = 0; // CUBLAS_DEFAULT_MATH
  return 0;
}

SIMCUDA_EXPORT int cublasGetPointerMode_v2(void*, int* mode) {
  *mode = 0; // CUBLAS_POINTER_MODE_HOST
  return 0;
}

SIMCUDA_EXPORT size_t cublasLtGetVersion() {
  return kLibraryVersion;
}

SIMCUDA_EXPORT int cublasLtCreate(void** handle) {
  return create(handle);
}

SIMCUDA_EXPORT int cublasLtDestroy(void* handle) {
  return destroy(handle);
}

SIMCUDA_EXPORT int cublasLtMatmulDescCreate(void** descriptor, int, int) {
  return create(descriptor);
}

SIMCUDA_EXPORT int cublasLtMatmulDescDestroy(void* descriptor) {
  return destroy(descriptor);
}

SIMCUDA_EXPORT int cublasLtMatrixLayoutCreate(void** layout, int, uint64_t, uint64_t, int64_t) {
  return create(layout);
}

SIMCUDA_EXPORT int cublasLtMatrixLayoutDestroy(void* layout) {
  return destroy(layout);
}

SIMCUDA_EXPORT int cublasLtMatmulPreferenceCreate(void** preference) {
  return create(preference);
}

SIMCUDA_EXPORT int cublasLtMatmulPreferenceDestroy(void* preference) {
  return destroy(preference);
}

SIMCUDA_EXPORT int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*,
                                                  int wanted, HeuristicResult* results,
                                                  int* found) {
  *found = wanted > 0 ? 1 : 0;
  if (*found)
    memset(results, 0, sizeof *results);
  return 0;
}
