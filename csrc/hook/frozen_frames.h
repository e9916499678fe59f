// The frames around a call of a module that is under way. They stand still until it returns, so
// what they hash to is found out once, and a stack is walked only as far as the innermost call.
//
// Owner: the thread, which alone looks at it. A greenlet may leave in the middle of a call for
// another one on the same thread, so calls return in any order, or never. Invariant: the innermost
// call has not returned. One that returns goes back to the call around it only if that is in its
// old place still, which the numbers tell; else none is used until the next begins.
#pragma once

#include "hook/stack_cache.h"

#include <cstdint>

namespace memtrace {

struct FrozenFrames {
  struct Call {
    const void* caller = nullptr; // the innermost of its frames
    void* thread = nullptr;       // Python's state of the thread; null: it may end before the call
    uint64_t number = kReturned;  // of the call, ever higher
    StackHash hash{};             // of its frames
    uint32_t frames = 0;          // that many; 0: not found out yet
  };
  static constexpr uint64_t kReturned = UINT64_MAX;
  static constexpr uint32_t kMostCalls = 64; // the frames of those further in are walked

  Call calls[kMostCalls + 1];
  Call* innermost = calls; // the first stands for none
  uint64_t last_number = 0;

  FrozenFrames() noexcept { calls[0].number = 0; }
  bool is_full() const noexcept { return innermost == &calls[kMostCalls]; }
};

// A call, from here to the end of the scope. On the C stack, which a greenlet takes along.
class FrozenCall {
 public:
  // `caller` is not null, and `frames` not full.
  FrozenCall(FrozenFrames& frames, void* thread, const void* caller) noexcept
      : frames_(frames), call_(++frames.innermost), number_(++frames.last_number) {
    call_->caller = caller;
    call_->thread = thread;
    call_->number = number_;
    call_->frames = 0;
  }
  ~FrozenCall() {
    if (call_->number == number_)
      call_->number = FrozenFrames::kReturned;
    FrozenFrames::Call* const around = call_ - 1;
    frames_.innermost = around->number < number_ ? around : frames_.calls;
  }
  FrozenCall(const FrozenCall&) = delete;
  FrozenCall& operator=(const FrozenCall&) = delete;

 private:
  FrozenFrames& frames_;
  FrozenFrames::Call* const call_;
  const uint64_t number_;
};

} // namespace memtrace
