// The least that a tracer of memory and operators does, whoever wrote it: the clock is read when an
// operator begins; at each allocation and free, and at the end of an operator in which there was
// one, it is read again and a record of 64 bytes is written; full buffers go to a file. It knows no
// names, no stacks and no modules, follows one thread, and loses what a crash finds in the buffer.
#include "operator_callbacks.h"
#include "record/clock.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <atomic>
#include <cstdint>
#include <dlfcn.h>
#include <memory>
#include <unistd.h>

namespace {

using memtrace::ticks_before;

struct alignas(64) Record {
  uint64_t ticks, address, size_bytes, start_ticks, call, rest[3];
};
struct Call {
  uint64_t start_ticks;
  bool touched;
};

constexpr int kRecords = 1024, kDepth = 128;
alignas(4096) Record g_records[kRecords];
int g_count = 0;
Call g_calls[kDepth];
int g_depth = 0;
uint64_t g_last_call = 0;
int g_file = -1;

void write_record(uint64_t address, uint64_t size_bytes, uint64_t start_ticks) {
  if (g_count == kRecords) {
    if (write(g_file, g_records, sizeof g_records) < 0)
      _exit(1);
    g_count = 0;
  }
  g_records[g_count++] = {ticks_before(), address, size_bytes, start_ticks, ++g_last_call, {}};
}

std::unique_ptr<at::ObserverContext> start(const at::RecordFunction&) {
  g_calls[++g_depth] = {ticks_before(), false};
  return nullptr;
}

void end(const at::RecordFunction&, at::ObserverContext*) {
  const Call call = g_calls[g_depth--];
  if (!call.touched)
    return;
  g_calls[g_depth].touched = true;
  write_record(0, 0, call.start_ticks);
}

void note(void* address, size_t size_bytes) {
  g_calls[g_depth].touched = true;
  write_record(reinterpret_cast<uint64_t>(address), size_bytes, 0);
}

c10::Allocator* g_inner = nullptr;
c10::DeleterFnPtr g_inner_deleter = nullptr;
bool g_on = false;

void free_and_note(void* address) {
  if (g_on)
    note(address, 0);
  g_inner_deleter(address);
}

class NotingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size_bytes) override {
    c10::DataPtr data = g_inner->allocate(size_bytes);
    if (g_on && data.compare_exchange_deleter(g_inner_deleter, &free_and_note))
      note(data.get(), size_bytes);
    return data;
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_and_note; }
  void copy_data(void* to, const void* from, std::size_t size_bytes) const override {
    g_inner->copy_data(to, from, size_bytes);
  }
};

// Once: a tracker cannot be detached. Nothing in a build or a program without CUDA.
void attach_to_cuda() {
  static bool attached = false;
  void* library = dlopen("libc10_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!library || attached)
    return;
  using Allocator = c10::cuda::CUDACachingAllocator::CUDAAllocator;
  auto* slot = static_cast<std::atomic<Allocator*>*>(
      dlsym(library, "_ZN3c104cuda20CUDACachingAllocator9allocatorE"));
  if (!slot || !slot->load()->initialized())
    return;
  slot->load()->attachAllocatorTraceTracker([](const auto& entry) {
    if (g_on)
      note(reinterpret_cast<void*>(entry.addr_), entry.size_);
  });
  attached = true;
}

NotingAllocator g_allocator;
at::CallbackHandle g_callback = at::INVALID_CALLBACK_HANDLE;
constexpr uint8_t kPriority = 0xff;

} // namespace

// Records go to this file.
extern "C" void least_tracer_on(int file) {
  g_file = file;
  g_count = g_depth = 0;
  g_inner = c10::GetCPUAllocator();
  g_inner_deleter = g_inner->raw_deleter();
  c10::SetCPUAllocator(&g_allocator, kPriority);
  g_callback = observe_operators(&start, &end);
  attach_to_cuda();
  g_on = true;
}

extern "C" void least_tracer_off() {
  g_on = false;
  at::removeCallback(g_callback);
  c10::SetCPUAllocator(g_inner, kPriority);
}
