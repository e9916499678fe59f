// record_cuda_event() on entries like torch's: what it writes, and that its two paths agree.
#include "hook/fake_torch.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <doctest/doctest.h>
#include <functional>
#include <random>
#include <set>
#include <thread>

using namespace memtrace;
using namespace memtrace::test;

namespace {

constexpr uint64_t kStackMinBytes = 512;
constexpr MempoolId kDefaultPool{0, 0};

void in_new_thread(const std::function<void()>& work) {
  std::thread(work).join();
}

// As in a torch whose entries bear ticks, where ticks are what torch stamps them with.
void open_device(int device, const Recording& recording) {
  open_cuda_device(device, recording, kClock == Clock::tsc);
}

// As torch makes it: at the moment at which it is recorded.
Entry now(Entry entry) {
  entry.time_.approx_t_ = ticks_before();
  return entry;
}

void* stream(uint64_t handle) {
  return reinterpret_cast<void*>(handle);
}

std::vector<Entry> random_entries(uint32_t seed, size_t count, bool plain_only) {
  std::mt19937_64 random(seed);
  auto below = [&](uint64_t bound) { return random() % bound; };
  std::vector<Entry> entries(count);
  for (Entry& entry : entries) {
    entry.action_ =
        static_cast<Entry::Action>(below(plain_only ? Entry::SNAPSHOT : Entry::OOM + 1));
    entry.device_ = static_cast<int8_t>(below(3));
    entry.addr_ = random();
    entry.stream_ = stream(below(3) == 0 ? 0 : random());
    entry.size_ = plain_only ? below(kStackMinBytes) : random() >> below(64);
    const bool pool = !plain_only && below(4) == 0;
    entry.mempool_ = pool ? MempoolId{below(3), 1 + below(3)} : kDefaultPool;
  }
  return entries;
}

// What the record of an entry must say, from the definition of each field (event.h), but for its
// ticks. Counts orders, stacks and pools by itself.
class Model {
 public:
  explicit Model(const OperatorCall* call) : call_(call) {}

  AllocatorEvent expect(const Entry& entry) {
    AllocatorEvent event{};
    const bool oom = entry.action_ == Entry::OOM;
    event.address = oom ? reinterpret_cast<uint64_t>(entry.stream_) : entry.addr_;
    event.stream = oom ? entry.addr_ : reinterpret_cast<uint64_t>(entry.stream_);
    event.size_bytes = entry.size_;
    event.order = ++orders_[entry.device_];
    if ((oom || entry.action_ == Entry::ALLOC) && entry.size_ >= kStackMinBytes)
      event.stack = ++stacks_;
    if (call_) {
      event.call = call_->call;
      event.op_name = call_->owner;
      event.top_name = call_->top;
      event.context = call_->records_graph ? kRecordsGraph : 0;
    }
    event.tail.thread = kMainThread + 1;
    event.tail.pool = pool(entry.mempool_);
    event.tail.device = static_cast<DeviceCode>(entry.device_ + 1);
    static constexpr Action kActions[] = {
        Action::alloc,         Action::free_requested, Action::free_completed,
        Action::segment_alloc, Action::segment_free,   Action::segment_map,
        Action::segment_unmap, Action::snapshot,       Action::oom};
    event.tail.action = kActions[entry.action_];
    return event;
  }

 private:
  uint16_t pool(const MempoolId& id) {
    if (id == kDefaultPool)
      return 0;
    auto at = std::find(pools_.begin(), pools_.end(), id);
    if (at == pools_.end())
      at = pools_.insert(pools_.end(), id);
    return static_cast<uint16_t>(at - pools_.begin() + 1);
  }

  const OperatorCall* call_;
  std::map<int, uint32_t> orders_;
  std::vector<MempoolId> pools_;
  uint32_t stacks_ = 0;
};

// Runs the entries through `record` in a new thread and compares every record with the model.
void check_entries(const std::vector<Entry>& entries, const OperatorCall* call,
                   const std::function<void(const Entry&)>& record) {
  TestRecording recording;
  recording.seen().stacks = counting_stacks();
  recording.seen().stack_min_bytes = kStackMinBytes;
  recording.start();
  for (int device = 0; device < 3; ++device)
    open_device(device, recording.seen());
  const uint64_t before = ticks_after();
  in_new_thread([&] {
    t_stacks_taken = 0;
    {
      HookScope join;
    } // gives the thread its state
    if (call) {
      t_state->calls[1] = *call;
      t_state->depth = 1;
    }
    for (const Entry& entry : entries)
      record(now(entry));
    if (call)
      CHECK(t_state->calls[1].touched == !entries.empty());
  });
  recording.stop();
  const std::vector<Record> written = recording.records();
  REQUIRE(written.size() == entries.size());
  Model model(call);
  uint64_t last_ticks = before;
  for (size_t i = 0; i < entries.size(); ++i) {
    AllocatorEvent event = written[i].event;
    CHECK(event.ticks >= last_ticks);
    last_ticks = event.ticks;
    event.ticks = 0;
    const AllocatorEvent expected = model.expect(entries[i]);
    INFO("entry ", i, " action ", static_cast<int>(entries[i].action_));
    REQUIRE(std::memcmp(&event, &expected, sizeof event) == 0);
  }
  CHECK(last_ticks <= ticks_after());
}

OperatorCall some_call() {
  OperatorCall call{};
  call.call = 41;
  call.name = 5;
  call.owner = 6;
  call.top = 7;
  call.records_graph = true;
  return call;
}

} // namespace

TEST_CASE("random entries are written as defined, by each path, in and out of operators") {
  const OperatorCall call = some_call();
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const auto entries = random_entries(seed, 3000, false);
    for (const OperatorCall* in : {static_cast<const OperatorCall*>(nullptr), &call}) {
      check_entries(entries, in, [](const Entry& entry) { record_cuda_event(entry); });
      check_entries(entries, in, [](const Entry& entry) { record_any_cuda_event(entry); });
    }
  }
}

TEST_CASE("plain entries take the short path, which writes what the general one writes") {
  if (kClock != Clock::tsc) {
    MESSAGE("no invariant counter on this machine: the short path is never used");
    return;
  }
  const auto entries = random_entries(1, 5 * kRecordsPerChunk, true);
  size_t general = 0;
  check_entries(entries, nullptr, [&](const Entry& entry) {
    if (!record_plain_cuda_event(entry)) {
      ++general;
      record_any_cuda_event(entry);
    }
  });
  CHECK(general <= 6); // a window that is full: the general path changes it
  check_entries(entries, nullptr, [](const Entry& entry) { record_any_cuda_event(entry); });
}

TEST_CASE("what is not plain is left to the general path, without a trace") {
  TestRecording recording;
  recording.seen().stacks = counting_stacks();
  recording.seen().stack_min_bytes = kStackMinBytes;
  recording.start();
  open_device(0, recording.seen());
  in_new_thread([&] {
    const Entry plain{Entry::ALLOC, 0, 1, nullptr, 8, kDefaultPool};
    CHECK_FALSE(record_plain_cuda_event(plain)); // the thread has no state yet
    record_any_cuda_event(plain);
    CHECK(record_plain_cuda_event(plain) == (kClock == Clock::tsc));
    Entry entry = plain;
    entry.action_ = Entry::OOM;
    CHECK_FALSE(record_plain_cuda_event(entry));
    entry = plain;
    entry.size_ = kStackMinBytes;
    CHECK_FALSE(record_plain_cuda_event(entry));
    entry = plain;
    entry.mempool_ = {0, 1};
    CHECK_FALSE(record_plain_cuda_event(entry));
    entry = plain;
    entry.device_ = 1; // not opened
    CHECK_FALSE(record_plain_cuda_event(entry));
    t_state->depth = 1;
    CHECK_FALSE(record_plain_cuda_event(plain));
    t_state->depth = 0;
    CHECK(t_state->busy.load() == 0);
  });
  recording.stop();
  CHECK(recording.records().size() == (kClock == Clock::tsc ? 2 : 1));
}

TEST_CASE("an out-of-memory event carries the free bytes, the stream and a stack") {
  TestRecording recording;
  recording.seen().stacks = counting_stacks();
  recording.seen().stack_min_bytes = 0;
  recording.start();
  open_device(2, recording.seen());
  in_new_thread([] { record_cuda_event(Entry{Entry::OOM, 2, 12345, stream(7), 1 << 30, {0, 0}}); });
  recording.stop();
  const auto written = recording.records();
  REQUIRE(written.size() == 1);
  const AllocatorEvent& event = written[0].event;
  CHECK(event.tail.action == Action::oom);
  CHECK(event.tail.device == cuda_device(2));
  CHECK(event.stream == 12345);
  CHECK(event.address == 7); // the stream
  CHECK(event.size_bytes == 1 << 30);
  CHECK(event.stack != 0);
}

TEST_CASE("a device's events count from the moment its live blocks were listed") {
  TestRecording recording;
  recording.start();
  in_new_thread([&] {
    const Entry alloc{Entry::ALLOC, 1, 0x1000, nullptr, 8, kDefaultPool};
    const Entry listed{Entry::SNAPSHOT, 0, 0, nullptr, 0, kDefaultPool};
    record_cuda_event(now(alloc)); // before: in the list
    t_listing = {0, ticks_before()};
    record_cuda_event(now(listed)); // device 0
    record_cuda_event(now(alloc));  // device 1 is not listed yet
    record_cuda_event(now(listed)); // device 1
    CHECK(t_listing.next == 2);
    t_listing = {};
    record_cuda_event(now(alloc));
    record_cuda_event(now(listed)); // somebody else's snapshot: an event of device 0
    record_cuda_event(now(alloc));
  });
  recording.stop();
  const auto written = recording.records();
  REQUIRE(written.size() == 3);
  CHECK(written[0].event.tail.device == cuda_device(1));
  CHECK(written[0].event.order == 1);
  CHECK(written[1].event.tail.action == Action::snapshot);
  CHECK(written[1].event.tail.device == cuda_device(0));
  CHECK(written[1].event.order == 1);
  CHECK(written[2].event.order == 2);
  CHECK(g_cuda_devices[1].listed_at_ticks >= g_cuda_devices[0].listed_at_ticks);
  CHECK(g_cuda_devices[1].listed_at_ticks <= written[0].event.ticks);
}

TEST_CASE(
    "the clock is read once where torch's stamps are its ticks, else torch's are left alone") {
  TestRecording recording;
  recording.start();
  Entry alloc{Entry::ALLOC, 0, 0x1000, nullptr, 8, kDefaultPool};
  Entry listed{Entry::SNAPSHOT, 0, 0, nullptr, 0, kDefaultPool};
  const uint64_t begin = ticks_before();
  in_new_thread([&] {
    for (const bool with_ticks : {true, false}) {
      t_listing = {0, ticks_before()};
      listed.time_.approx_t_ = with_ticks ? ticks_before() : 12345; // a clock of another kind
      record_cuda_event(listed);
      t_listing = {};
      CHECK(g_cuda_devices[0].stamped == (with_ticks && kClock == Clock::tsc));
      alloc.time_.approx_t_ = with_ticks ? begin : 12346;
      for (int path = 0; path < 2; ++path) // the general one, and the short one
        record_cuda_event(alloc);
    }
    t_listing = {0, ticks_before()};
    listed.time_.approx_t_ = ticks_before() + (uint64_t{1} << 40); // later than now
    record_cuda_event(listed);
    t_listing = {};
    CHECK_FALSE(g_cuda_devices[0].stamped);
  });
  recording.stop();
  const auto written = recording.records();
  REQUIRE(written.size() == 4);
  for (int i : {0, 1})
    CHECK((written[i].event.ticks == begin) == (kClock == Clock::tsc));
  for (int i : {2, 3}) {
    CHECK(written[i].event.ticks > begin);
    CHECK(written[i].event.ticks <= ticks_after());
  }
}

TEST_CASE("a device opened in an earlier recording is closed in the next one") {
  const Entry alloc{Entry::ALLOC, 0, 0x1000, nullptr, 8, kDefaultPool};
  TestRecording first;
  first.start();
  open_device(0, first.seen());
  record_cuda_event(alloc);
  record_cuda_event(alloc);
  first.stop();
  record_cuda_event(alloc); // nobody records
  TestRecording second;
  second.start();
  record_cuda_event(alloc); // not listed yet
  open_device(0, second.seen());
  record_cuda_event(alloc);
  second.stop();
  CHECK(first.records().size() == 2);
  REQUIRE(second.records().size() == 1);
  CHECK(second.records()[0].event.order == 1);
}

TEST_CASE("pools are numbered by first sight in a recording, whatever the device and the thread") {
  for (int round = 0; round < 2; ++round) {
    TestRecording recording;
    recording.start();
    open_device(0, recording.seen());
    open_device(1, recording.seen());
    in_new_thread([] {
      for (const MempoolId& pool :
           {MempoolId{0, 9}, MempoolId{4, 0}, MempoolId{0, 9}, kDefaultPool})
        record_cuda_event(Entry{Entry::ALLOC, 0, 1, nullptr, 8, pool});
    });
    in_new_thread([] {
      for (const MempoolId& pool : {MempoolId{4, 0}, MempoolId{0, 3}})
        record_cuda_event(Entry{Entry::ALLOC, 1, 1, nullptr, 8, pool});
    });
    recording.stop();
    std::vector<int> numbers;
    for (const Record& record : recording.records())
      numbers.push_back(record.event.tail.pool);
    CHECK(numbers == std::vector<int>{1, 2, 1, 0, 2, 3});
    const auto texts = read_texts(recording.path(), TextKind::pool);
    REQUIRE(texts.size() == 3);
    uint64_t words[2];
    std::memcpy(words, texts.at(2).data(), sizeof words);
    CHECK(words[0] == 4);
    CHECK(words[1] == 0);
  }
}

TEST_CASE("pools beyond those that can be numbered have one number, and their events are counted") {
  constexpr uint32_t kMost = CudaPoolTable::kMostPools;
  for (int round = 0; round < 2; ++round) { // the first leaves the second all its room
    TestRecording recording;
    recording.start();
    for (uint32_t pool = 1; pool <= kMost; ++pool)
      REQUIRE(pool_number({0, pool}, recording.seen()) == pool);
    CHECK(recording.recorder().lost(Loss::pool_unnumbered) == 0);
    for (uint32_t pool = kMost + 1; pool <= kMost + 3; ++pool)
      for (int event = 0; event < 2; ++event)
        CHECK(pool_number({0, pool}, recording.seen()) == kUnnumberedPool);
    CHECK(recording.recorder().lost(Loss::pool_unnumbered) == 6);
    CHECK(pool_number({0, kMost}, recording.seen()) == kMost);
    recording.stop();
    CHECK(read_texts(recording.path(), TextKind::pool).size() == kMost);
  }
}

TEST_CASE("recordings that come after many others number their pools as ever") {
  static auto* const recordings = new std::deque<Recording>; // never freed, as in the product
  for (uint32_t round = 0; round < 1000; ++round) {
    Recording& recording = recordings->emplace_back();
    uint32_t texts = 0;
    recording.api.recorder = &texts;
    recording.api.text = [](void* counted, TextKind, uint32_t, const void*, size_t) noexcept {
      ++*static_cast<uint32_t*>(counted);
      return true;
    };
    g_kept_recording.store(&recording);
    for (int event = 0; event < 3; ++event)
      for (uint16_t pool = 1; pool <= 5; ++pool)
        REQUIRE(pool_number({pool, 0}, recording) == pool);
    CHECK(texts == 5);
    g_kept_recording.store(nullptr);
  }
}

TEST_CASE("a thread that is held up since an earlier recording does not take the pools away") {
  TestRecording first, second;
  first.start();
  CHECK(pool_number({0, 1}, first.seen()) == 1);
  first.stop();
  second.start();
  CHECK(pool_number({0, 2}, second.seen()) == 1);
  CHECK(pool_number({0, 1}, first.seen()) == kUnnumberedPool);
  CHECK(pool_number({0, 2}, second.seen()) == 1);
  CHECK(pool_number({0, 3}, second.seen()) == 2);
  second.stop();
  CHECK(read_texts(second.path(), TextKind::pool).size() == 2);
}

TEST_CASE("threads that see a new pool at the same time agree on its number") {
  TestRecording recording;
  recording.start();
  constexpr int kThreads = 4;
  constexpr unsigned kPools = 200;
  std::vector<std::thread> threads;
  for (int8_t device = 0; device < kThreads; ++device) {
    open_device(device, recording.seen());
    threads.emplace_back([device] {
      for (unsigned pool = 1; pool <= kPools; ++pool)
        record_cuda_event(Entry{Entry::ALLOC, device, pool, nullptr, 8, {0, pool}});
    });
  }
  for (std::thread& thread : threads)
    thread.join();
  recording.stop();
  std::map<uint64_t, std::set<int>> numbers;
  for (const Record& record : recording.records())
    numbers[record.event.address].insert(record.event.tail.pool);
  CHECK(numbers.size() == kPools);
  for (const auto& [pool, found] : numbers)
    CHECK(found.size() == 1);
  CHECK(read_texts(recording.path(), TextKind::pool).size() == kPools);
}

TEST_CASE(
    "a pause leaves out allocations and what they end with; the end of what was before stays") {
  TestRecording recording;
  recording.start();
  open_device(0, recording.seen());
  CudaDevice& device = g_cuda_devices[0];
  const auto at = [](Entry::Action action, uint64_t address) {
    record_cuda_event(Entry{action, 0, address, nullptr, 512, kDefaultPool});
  };
  in_new_thread([&] {
    const auto churn = [&](uint64_t address) {
      at(Entry::ALLOC, address);
      at(Entry::FREE_REQUESTED, address);
      at(Entry::FREE_COMPLETED, address);
    };
    at(Entry::ALLOC, 0x1000);
    REQUIRE(quiesce_for_pause());
    at(Entry::ALLOC, 0x2000); // no device knows of it yet: recorded
    pause_cuda_device(device, recording.seen());
    at(Entry::FREE_REQUESTED, 0x1000);
    at(Entry::FREE_COMPLETED, 0x1000);
    for (int i = 0; i < 5; ++i)
      churn(0x1000);
    at(Entry::SEGMENT_ALLOC, 0x9000);
    g_recording.store(&recording.seen());
    at(Entry::ALLOC, 0x3000); // not listed yet
    open_device(0, recording.seen());
    CHECK(device.listed_order == 5);
    churn(0x4000);
    REQUIRE(quiesce_for_pause());
    pause_cuda_device(device, recording.seen());
    at(Entry::FREE_COMPLETED, 0x1000); // of another pause
  });
  recording.stop();
  using Written = std::pair<Action, uint64_t>;
  std::vector<Written> written;
  uint32_t order = 0;
  for (const Record& record : recording.records()) {
    written.emplace_back(record.event.tail.action, record.event.address);
    CHECK(record.event.order == ++order);
    CHECK(record.event.tail.thread == kMainThread + 1); // one log, one thread
  }
  CHECK(written == std::vector<Written>{{Action::alloc, 0x1000},
                                        {Action::alloc, 0x2000},
                                        {Action::free_requested, 0x1000},
                                        {Action::free_completed, 0x1000},
                                        {Action::segment_alloc, 0x9000},
                                        {Action::alloc, 0x4000},
                                        {Action::free_requested, 0x4000},
                                        {Action::free_completed, 0x4000},
                                        {Action::free_completed, 0x1000}});
}

TEST_CASE("a device that another recording opened is not paused, and a new one begins unpaused") {
  TestRecording first, second;
  first.start();
  open_device(0, first.seen());
  pause_cuda_device(g_cuda_devices[0], second.seen());
  CHECK(g_cuda_devices[0].paused.load() == nullptr);
  pause_cuda_device(g_cuda_devices[0], first.seen());
  CHECK(g_cuda_devices[0].paused.load() != nullptr);
  first.stop();
  second.start();
  open_device(0, second.seen());
  in_new_thread([] { record_cuda_event(Entry{Entry::ALLOC, 0, 1, nullptr, 8, kDefaultPool}); });
  second.stop();
  CHECK(second.records().size() == 1);
}

TEST_CASE("each address is told of once, however many there are, until the set is cleared") {
  EndedAddresses ended;
  std::mt19937_64 random(1);
  for (int round = 0; round < 2; ++round) {
    REQUIRE(ended.clear());
    std::set<uint64_t> model;
    for (int i = 0; i < 20000; ++i) {
      const uint64_t address = (1 + random() % 9000) * 512 + random() % 2;
      CHECK(ended.insert(address) == model.insert(address).second);
    }
  }
}

namespace {
struct EntryWithoutPool : Entry { // as in torch 2.6
 private:
  using Entry::mempool_;
};
} // namespace

TEST_CASE("entries that do not say their pool are of the default one") {
  static_assert(kPoolsKnown<Entry> && !kPoolsKnown<EntryWithoutPool>);
  TestRecording recording;
  recording.start();
  open_device(0, recording.seen());
  in_new_thread([] {
    const EntryWithoutPool entry{{Entry::ALLOC, 0, 0x1000, nullptr, 8, {0, 9}}};
    record_cuda_event(entry); // by the general path
    record_cuda_event(entry); // by the short one
  });
  recording.stop();
  const auto written = recording.records();
  REQUIRE(written.size() == 2);
  for (const Record& record : written) {
    CHECK(record.event.address == 0x1000);
    CHECK(record.event.tail.pool == 0);
  }
}
