// NVML, answering from the same ledger as the runtime: cudaMemGetInfo and nvmlDeviceGetMemoryInfo
// agree to the byte. NVML's own types are spelled out, its header isn't among the packages needed.
#include "device_memory.h"
#include "other_processes.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

namespace simcuda {
namespace {

enum Status {
  kSuccess = 0,
  kUninitialized = 1,
  kInvalidArgument = 2,
  kNotSupported = 3,
  kNotFound = 6,
  kInsufficientSize = 7,
};

struct MemoryInfo { // nvmlMemory_t
  unsigned long long total, free, used;
};

struct MemoryInfoV2 { // nvmlMemory_v2_t
  unsigned version;
  unsigned long long total, reserved, free, used;
};

struct ProcessInfoV1 { // nvmlProcessInfo_v1_t
  unsigned pid;
  unsigned long long used_bytes;
};

struct ProcessInfoV2 { // nvmlProcessInfo_v2_t, which is also that of the _v3 functions
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance, compute_instance;
};

struct PciInfo { // nvmlPciInfo_t
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
};

struct Utilization { // nvmlUtilization_t
  unsigned gpu, memory;
};

// The process that owns the foreign bytes: a pid beyond what the kernel gives out.
constexpr unsigned kForeignPid = 0x7ffffffe;
constexpr unsigned kNoInstance = 0xffffffff;
constexpr char kDriverVersion[] = "580.00.00";
constexpr char kNvmlVersion[] = "13.580.00.00";

std::atomic<int> initializations{0};

// A device's handle is its index plus one, as a pointer.
using Handle = void*;

Handle handle_of(int device) {
  return reinterpret_cast<Handle>(static_cast<uintptr_t>(device) + 1);
}

int device_of(Handle handle) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(handle)) - 1;
}

int check(Handle handle) {
  if (initializations == 0)
    return kUninitialized;
  return is_device(device_of(handle)) ? kSuccess : kInvalidArgument;
}

int write_text(char* out, unsigned bytes, const char* text) {
  if (strlen(text) >= bytes)
    return kInsufficientSize;
  strcpy(out, text);
  return kSuccess;
}

void format_uuid(int device, char (&text)[64]) {
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, device);
  auto* b = reinterpret_cast<const unsigned char*>(properties.uuid.bytes);
  snprintf(text, sizeof text,
           "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
           b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
           b[15]);
}

// The processes with memory on the device: this one, the made-up other one, and those that share
// the machine.
std::vector<ProcessInfoV2> list_processes(int device) {
  std::vector<ProcessInfoV2> list;
  for (const OtherProcess& other : other_processes(device))
    list.push_back({static_cast<unsigned>(other.pid), other.bytes, kNoInstance, kNoInstance});
  Guard guard(state_lock());
  const Ledger& ledger = ledger_locked(device);
  if (has_context_locked(device)) {
    auto pid = static_cast<unsigned>(context_owner_locked());
    size_t bytes = ledger.context_bytes + ledger.allocated_bytes;
    list.push_back({pid, bytes, kNoInstance, kNoInstance});
  }
  if (ledger.foreign_bytes)
    list.push_back({kForeignPid, ledger.foreign_bytes, kNoInstance, kNoInstance});
  return list;
}

template <typename Info> int write_processes(Handle handle, unsigned* count, Info* infos) {
  if (int status = check(handle))
    return status;
  std::vector<ProcessInfoV2> list = list_processes(device_of(handle));
  auto found = static_cast<unsigned>(list.size());
  unsigned room = infos ? *count : 0;
  *count = found;
  if (found > room)
    return kInsufficientSize;
  for (unsigned i = 0; i < found; ++i) {
    infos[i].pid = list[i].pid;
    infos[i].used_bytes = list[i].used_bytes;
    if constexpr (std::is_same_v<Info, ProcessInfoV2>) {
      infos[i].gpu_instance = list[i].gpu_instance;
      infos[i].compute_instance = list[i].compute_instance;
    }
  }
  return kSuccess;
}

} // namespace
} // namespace simcuda

using namespace simcuda;

// ---- library

SIMCUDA_EXPORT int nvmlInit_v2() {
  ++initializations;
  return kSuccess;
}

SIMCUDA_EXPORT int nvmlInit() {
  return nvmlInit_v2();
}

SIMCUDA_EXPORT int nvmlInitWithFlags(unsigned) {
  return nvmlInit_v2();
}

SIMCUDA_EXPORT int nvmlShutdown() {
  if (initializations == 0)
    return kUninitialized;
  --initializations;
  return kSuccess;
}

SIMCUDA_EXPORT const char* nvmlErrorString(int status) {
  switch (status) {
  case kSuccess:
    return "Success";
  case kUninitialized:
    return "Uninitialized";
  case kInvalidArgument:
    return "Invalid Argument";
  case kNotSupported:
    return "Not Supported";
  case kNotFound:
    return "Not Found";
  case kInsufficientSize:
    return "Insufficient Size";
  default:
    return "Unknown Error";
  }
}

SIMCUDA_EXPORT int nvmlSystemGetDriverVersion(char* text, unsigned bytes) {
  return write_text(text, bytes, kDriverVersion);
}

SIMCUDA_EXPORT int nvmlSystemGetNVMLVersion(char* text, unsigned bytes) {
  return write_text(text, bytes, kNvmlVersion);
}

SIMCUDA_EXPORT int nvmlSystemGetCudaDriverVersion_v2(int* version) {
  *version = CUDA_VERSION;
  return kSuccess;
}

SIMCUDA_EXPORT int nvmlSystemGetCudaDriverVersion(int* version) {
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

SIMCUDA_EXPORT int nvmlSystemGetProcessName(unsigned, char* text, unsigned bytes) {
  return write_text(text, bytes, "python");
}

// ---- devices

SIMCUDA_EXPORT int nvmlDeviceGetCount_v2(unsigned* count) {
  if (initializations == 0)
    return kUninitialized;
  *count = static_cast<unsigned>(config().devices);
  return kSuccess;
}

SIMCUDA_EXPORT int nvmlDeviceGetCount(unsigned* count) {
  return nvmlDeviceGetCount_v2(count);
}

SIMCUDA_EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle* handle) {
  *handle = handle_of(static_cast<int>(index));
  return check(*handle);
}

SIMCUDA_EXPORT int nvmlDeviceGetHandleByIndex(unsigned index, Handle* handle) {
  return nvmlDeviceGetHandleByIndex_v2(index, handle);
}

SIMCUDA_EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, Handle* handle) {
  unsigned domain, bus, device;
  if (sscanf(bus_id, "%x:%x:%x", &domain, &bus, &device) != 3)
    return kInvalidArgument;
  *handle = handle_of(static_cast<int>(bus) - 1);
  int status = check(*handle);
  return status == kInvalidArgument ? int{kNotFound} : status;
}

SIMCUDA_EXPORT int nvmlDeviceGetHandleByUUID(const char* uuid, Handle* handle) {
  if (initializations == 0)
    return kUninitialized;
  for (int device = 0; device < config().devices; ++device) {
    char text[64];
    format_uuid(device, text);
    if (strcmp(text, uuid) != 0)
      continue;
    *handle = handle_of(device);
    return kSuccess;
  }
  return kNotFound;
}

SIMCUDA_EXPORT int nvmlDeviceGetIndex(Handle handle, unsigned* index) {
  *index = static_cast<unsigned>(device_of(handle));
  return check(handle);
}

SIMCUDA_EXPORT int nvmlDeviceGetMinorNumber(Handle handle, unsigned* minor) {
  return nvmlDeviceGetIndex(handle, minor);
}

SIMCUDA_EXPORT int nvmlDeviceGetName(Handle handle, char* name, unsigned bytes) {
  if (int status = check(handle))
    return status;
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, device_of(handle));
  return write_text(name, bytes, properties.name);
}

SIMCUDA_EXPORT int nvmlDeviceGetUUID(Handle handle, char* uuid, unsigned bytes) {
  if (int status = check(handle))
    return status;
  char text[64];
  format_uuid(device_of(handle), text);
  return write_text(uuid, bytes, text);
}

SIMCUDA_EXPORT int nvmlDeviceGetPciInfo_v3(Handle handle, PciInfo* info) {
  if (int status = check(handle))
    return status;
  *info = {};
  info->bus = static_cast<unsigned>(device_of(handle)) + 1;
  snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "0000:%02X:00.0", info->bus);
  snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
  return kSuccess;
}

SIMCUDA_EXPORT int nvmlDeviceGetCudaComputeCapability(Handle handle, int* major, int* minor) {
  *major = config().compute_capability / 10;
  *minor = config().compute_capability % 10;
  return check(handle);
}

SIMCUDA_EXPORT int nvmlDeviceGetUtilizationRates(Handle handle, Utilization* utilization) {
  *utilization = {};
  return check(handle);
}

// ---- memory

SIMCUDA_EXPORT int nvmlDeviceGetMemoryInfo(Handle handle, MemoryInfo* info) {
  if (int status = check(handle))
    return status;
  size_t others = 0;
  for (const OtherProcess& other : other_processes(device_of(handle)))
    others += other.bytes;
  Guard guard(state_lock());
  const Ledger& ledger = ledger_locked(device_of(handle));
  // used and free always add up to the total, also when a test shrank the device below its use.
  size_t free = ledger.free_bytes() > others ? ledger.free_bytes() - others : 0;
  *info = {ledger.capacity_bytes, free, ledger.capacity_bytes - free};
  return kSuccess;
}

SIMCUDA_EXPORT int nvmlDeviceGetMemoryInfo_v2(Handle handle, MemoryInfoV2* info) {
  constexpr unsigned kVersion = sizeof(MemoryInfoV2) | 2u << 24;
  constexpr int kArgumentVersionMismatch = 25;
  if (info->version != kVersion)
    return kArgumentVersionMismatch;
  MemoryInfo plain;
  if (int status = nvmlDeviceGetMemoryInfo(handle, &plain))
    return status;
  *info = {kVersion, plain.total, 0, plain.free, plain.used};
  return kSuccess;
}

// ---- processes: the unversioned function is the first version, which torch's OOM message uses

SIMCUDA_EXPORT int nvmlDeviceGetComputeRunningProcesses(Handle handle, unsigned* count,
                                                        ProcessInfoV1* infos) {
  return write_processes(handle, count, infos);
}

SIMCUDA_EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(Handle handle, unsigned* count,
                                                           ProcessInfoV2* infos) {
  return write_processes(handle, count, infos);
}

SIMCUDA_EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(Handle handle, unsigned* count,
                                                           ProcessInfoV2* infos) {
  return write_processes(handle, count, infos);
}

SIMCUDA_EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle handle, unsigned* count,
                                                            ProcessInfoV2*) {
  *count = 0;
  return check(handle);
}

SIMCUDA_EXPORT int nvmlDeviceGetMPSComputeRunningProcesses_v3(Handle handle, unsigned* count,
                                                              ProcessInfoV2*) {
  *count = 0;
  return check(handle);
}

// ---- topology, which torch asks about: there is none

SIMCUDA_EXPORT int nvmlDeviceGetNvLinkRemoteDeviceType(Handle, unsigned, int*) {
  return kNotSupported;
}

SIMCUDA_EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(Handle, unsigned, PciInfo*) {
  return kNotSupported;
}

// The caller presets the state to "not supported"; torch 2.13 insists on success.
SIMCUDA_EXPORT int nvmlDeviceGetGpuFabricInfoV(Handle, void*) {
  return kSuccess;
}
