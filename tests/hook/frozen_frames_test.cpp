// Which call is the innermost one, whatever the order in which calls return.
#include "hook/frozen_frames.h"

#include <doctest/doctest.h>
#include <iterator>
#include <memory>
#include <optional>

using namespace memtrace;

namespace {

// Calls that end when told to, as those of several greenlets do.
struct Calls {
  FrozenFrames frames;
  std::optional<FrozenCall> call[4];
  int caller[4];

  void begin(int i) { call[i].emplace(frames, &caller[i], &caller[i]); }
  void end(int i) { call[i].reset(); }
  bool none_is_used() const {
    return frames.innermost == frames.calls && !frames.calls->caller && !frames.calls->thread;
  }
  // The call is the innermost, in the place of so many.
  bool is_used(int i, int depth) const {
    return frames.innermost == &frames.calls[depth] && frames.innermost->caller == &caller[i] &&
           frames.innermost->thread == &caller[i];
  }
};

} // namespace

TEST_CASE("each call that returns goes back to the one around it") {
  Calls calls;
  CHECK(calls.none_is_used());
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 4; ++i) {
      calls.begin(i);
      CHECK(calls.is_used(i, i + 1));
    }
    for (int i = 3; i > 0; --i) {
      calls.end(i);
      CHECK(calls.is_used(i - 1, i));
    }
    calls.end(0);
    CHECK(calls.none_is_used());
  }
}

TEST_CASE("a call's frames are found out anew, also of the same caller") {
  FrozenFrames frames;
  const int caller = 0, other = 0;
  for (const int* from : {&caller, &caller, &other}) {
    const FrozenCall call(frames, nullptr, from);
    CHECK(frames.innermost->caller == from);
    CHECK(frames.innermost->frames == 0);
    frames.innermost->frames = 7;
  }
}

TEST_CASE("what was found out of the call around stays when an inner one returns") {
  FrozenFrames frames;
  const int caller = 0;
  const FrozenCall outer(frames, nullptr, &caller);
  frames.innermost->frames = 7;
  frames.innermost->hash = {1, 2};
  {
    const FrozenCall inner(frames, nullptr, &caller);
  }
  CHECK(frames.innermost->frames == 7);
  CHECK(frames.innermost->hash.key == 1);
  CHECK(frames.innermost->hash.check == 2);
}

TEST_CASE("a call that has returned before the one inside it is not gone back to") {
  Calls calls;
  calls.begin(0);
  calls.begin(1); // of another greenlet
  calls.end(0);
  CHECK(calls.none_is_used());
  calls.end(1);
  CHECK(calls.none_is_used());
}

TEST_CASE("a call whose place another has taken is not gone back to") {
  Calls calls;
  calls.begin(0);
  calls.begin(1);
  calls.end(0);
  calls.begin(2); // where 0 was
  CHECK(calls.is_used(2, 1));
  calls.end(1); // it was in 0
  CHECK(calls.none_is_used());
  calls.end(2);
  CHECK(calls.none_is_used());
}

TEST_CASE("a call returns without a trace when another has taken its place") {
  Calls calls;
  calls.begin(0);
  calls.begin(1);
  calls.end(0);
  calls.begin(2);
  calls.begin(3); // where 1 was, in 2
  CHECK(calls.is_used(3, 2));
  {
    const FrozenCall inside(calls.frames, nullptr, &calls);
    calls.end(1);
    CHECK(calls.none_is_used()); // 2 is not what 1 was in
  }
  CHECK(calls.is_used(3, 2)); // it has not returned
  calls.end(3);
  CHECK(calls.is_used(2, 1));
  calls.end(2);
  CHECK(calls.none_is_used());
}

TEST_CASE("an exception leaves a call as a return does") {
  Calls calls;
  calls.begin(0);
  const auto fail = [&] {
    const FrozenCall call(calls.frames, nullptr, &calls);
    throw 1;
  };
  CHECK_THROWS_AS(fail(), int);
  CHECK(calls.is_used(0, 1));
}

TEST_CASE("there is room for so many calls in each other, and again once one has returned") {
  FrozenFrames frames;
  const int caller = 0;
  std::unique_ptr<std::optional<FrozenCall>[]> calls(
      new std::optional<FrozenCall>[FrozenFrames::kMostCalls]);
  for (uint32_t i = 0; i < FrozenFrames::kMostCalls; ++i) {
    CHECK_FALSE(frames.is_full());
    calls[i].emplace(frames, nullptr, &caller);
  }
  CHECK(frames.is_full());
  CHECK(frames.innermost < std::end(frames.calls));
  calls[FrozenFrames::kMostCalls - 1].reset();
  CHECK_FALSE(frames.is_full());
  for (uint32_t i = FrozenFrames::kMostCalls - 1; i-- > 0;)
    calls[i].reset();
  CHECK(frames.innermost == frames.calls);
}
