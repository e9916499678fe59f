#include "store/window_packer.h"

#include "record/clock.h"
#include "record/recorder.h"
#include "store/record_merge.h"
#include "store/spool_builder.h"
#include "store/spool_compactor.h"
#include "store/spool_error.h"
#include "store/spool_follower.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace memtrace;
using namespace std::chrono_literals;
using memtrace::test::read;
using memtrace::test::TemporaryDirectory;
using Left = WindowPacker::Left;
using Result = WindowPacker::Result;

namespace {

using Numbers = std::vector<uint64_t>;

constexpr size_t kRecordsPerWindow = kChunksPerWindow * kRecordsPerChunk;

// A thread that records: its records are numbered.
class NumberedLog {
 public:
  explicit NumberedLog(Recorder& recorder) : recorder_(recorder), log_(recorder.acquire_log()) {}

  // Ends with the first record of the next window: what was full was handed over.
  void fill_windows(size_t windows) {
    const size_t more = windows * kRecordsPerWindow + (all_.empty() ? 1 : 0);
    for (size_t i = 0; i < more; ++i)
      append();
  }
  void append() {
    Record* record = log_->reserve();
    REQUIRE(record);
    record->event = {};
    record->event.ticks = ticks_after();
    record->event.address = log_->number * uint64_t{1} << 32 | all_.size();
    all_.push_back(record->event.address);
    log_->publish({1, 0, kCpu, Action::alloc});
    if (log_->flush_pending)
      recorder_.flush(log_);
  }
  const Numbers& all() const { return all_; }
  const ThreadLog& thread_log() const { return *log_; }

 private:
  Recorder& recorder_;
  ThreadLog* log_;
  Numbers all_;
};

// The page of a spool that program and packer share.
class HandoverPage {
 public:
  explicit HandoverPage(const std::string& directory) {
    const int fd = open((directory + "/handover.bin").c_str(), O_RDWR | O_CLOEXEC);
    void* page = mmap(nullptr, kHandoverBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    REQUIRE(page != MAP_FAILED);
    handover_ = static_cast<Handover*>(page);
  }
  ~HandoverPage() { munmap(handover_, kHandoverBytes); }
  HandoverPage(const HandoverPage&) = delete;
  HandoverPage& operator=(const HandoverPage&) = delete;

  std::atomic_ref<PackerState> packer() const { return std::atomic_ref(handover_->packer); }
  std::atomic_ref<uint64_t> handed(const ThreadLog& log, uint32_t window) const {
    return std::atomic_ref(handover_->handed[(log.number - 1) * kWindowsPerLog + window]);
  }
  size_t handed_windows() const {
    return static_cast<size_t>(
        std::ranges::count_if(handover_->handed, [](uint64_t word) { return word != 0; }));
  }

 private:
  Handover* handover_;
};

void take_some(SpoolFollower& follower, bool ended, Numbers& numbers) {
  do {
    follower.look(ended);
    while (const Record* record = follower.next())
      numbers.push_back(record->event.address);
  } while (follower.behind());
}

size_t records_file_bytes(const TemporaryDirectory& spool) {
  return std::filesystem::file_size(spool.path() + "/records.bin");
}

template <class Condition> bool comes_true(Condition condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition())
      return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

// At work in a thread, until it is left.
class AtWork {
 public:
  AtWork(WindowPacker& packer, const std::string& directory)
      : packer_(packer), thread_([this] { left_ = packer_.work(); }) {
    const HandoverPage page(directory);
    REQUIRE(comes_true([&] { return page.packer().load() != PackerState::none; }));
  }
  ~AtWork() {
    if (thread_.joinable())
      stop();
  }
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;

  Left stop() {
    packer_.stop();
    return join();
  }
  Left join() {
    thread_.join();
    return left_;
  }

 private:
  WindowPacker& packer_;
  Left left_ = Left::unable;
  std::thread thread_;
};

} // namespace

TEST_CASE("without a packer nothing is handed over") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  NumberedLog log(recorder);
  log.fill_windows(3);
  CHECK(HandoverPage(spool.path()).handed_windows() == 0);
  CHECK(records_file_bytes(spool) == 3 * kChunksPerWindow * kChunkBytes);
}

TEST_CASE(
    "full windows are packed beside the program, which appends none, and everyone reads them") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  NumberedLog log(recorder);
  SpoolFollower follower(spool.path());
  WindowPacker packer(spool.path());
  const HandoverPage page(spool.path());
  Numbers followed;
  {
    AtWork at_work(packer, spool.path());
    for (size_t windows = 0; windows < 20; ++windows) {
      log.fill_windows(1);
      REQUIRE(comes_true([&] { return page.handed_windows() == 0; }));
      if (windows % 6 == 0)
        CHECK(read(spool.path()) == log.all());
      take_some(follower, false, followed);
    }
    CHECK(at_work.stop() == Left::stopped);
  }
  CHECK(page.packer().load() == PackerState::none);
  CHECK(packer.windows_packed() == 20);
  CHECK(records_file_bytes(spool) == 0);
  CHECK(read(spool.path()) == log.all());
  take_some(follower, true, followed);
  CHECK(followed == log.all());
  CHECK(follower.missing_chunks() == 0);
  CHECK(follower.bytes_published() == 20 * kRecordsPerWindow * kRecordBytes);
  SpoolFollower late(spool.path());
  Numbers all;
  take_some(late, true, all);
  CHECK(all == log.all());
  log.fill_windows(3); // and the program goes on alone
  CHECK(read(spool.path()) == log.all());
  CHECK(recorder.lost(Loss::event_no_space) == 0);
}

TEST_CASE("nobody waits for a packer that does nothing: windows are taken back") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  page.packer() = PackerState::awake; // it is stopped, or was killed
  for (size_t windows = 1; windows <= 12; ++windows) {
    log.fill_windows(1);
    CHECK(page.handed_windows() == std::min<size_t>(windows, kWindowsPerLog - 2));
    CHECK(read(spool.path()) == log.all());
  }
  CHECK(recorder.lost(Loss::event_no_space) == 0);
  page.packer() = PackerState::none; // another finaliser came, and left
  log.fill_windows(6);
  CHECK(read(spool.path()) == log.all());
  CHECK(recorder.lost(Loss::event_no_space) == 0);
}

TEST_CASE("windows that killed packers had taken stay as they are, and the log does without them") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  page.packer() = PackerState::awake;
  constexpr uint32_t kTaken = kWindowsPerLog - 2; // then each is taken back as soon as it is full
  for (uint32_t window = 0; window < kTaken; ++window) {
    log.fill_windows(1);
    REQUIRE(page.handed(log.thread_log(), window).load() != 0);
    page.handed(log.thread_log(), window).fetch_or(kHandedTaken);
  }
  log.fill_windows(5);
  CHECK(page.handed_windows() == kTaken);
  CHECK(read(spool.path()) == log.all());
  CHECK(recorder.lost(Loss::event_no_space) == 0);
  WindowPacker packer(spool.path()); // the next one leaves alone what is not its own
  CHECK(packer.pack_handed() == Result::done);
  CHECK(packer.windows_packed() == 0);
  CHECK(read(spool.path()) == log.all());
}

TEST_CASE("a log whose other windows are all in hand appends the one that it has") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  log.append();
  page.packer() = PackerState::awake;
  for (uint32_t window = 1; window < kWindowsPerLog; ++window)
    page.handed(log.thread_log(), window) = handed_window(0, 1) | kHandedTaken;
  log.fill_windows(5);
  CHECK(records_file_bytes(spool) == 5 * kChunksPerWindow * kChunkBytes);
  CHECK(read(spool.path()) == log.all());
  CHECK(recorder.lost(Loss::event_no_space) == 0);
}

TEST_CASE("a log that is behind takes a window back where no lock is held") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  page.packer() = PackerState::awake;
  ThreadLog* log = recorder.acquire_log();
  const auto fill = [log](size_t windows) {
    for (size_t i = 0; i < windows * kRecordsPerWindow; ++i) {
      Record* record = log->reserve();
      REQUIRE(record);
      record->event = {};
      log->publish({1, 0, kCpu, Action::alloc});
    }
  };
  fill(3);
  CHECK_FALSE(log->flush_pending);
  CHECK(page.handed_windows() == 2);
  fill(1);
  CHECK(log->flush_pending);
  CHECK(page.handed_windows() == 3);
  CHECK(records_file_bytes(spool) == 0);
  recorder.flush(log);
  CHECK_FALSE(log->flush_pending);
  CHECK(page.handed_windows() == 2);
  CHECK(records_file_bytes(spool) == kChunksPerWindow * kChunkBytes);
}

TEST_CASE("a packer that was killed before it cleared a window leaves each record once") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  page.packer() = PackerState::awake;
  log.fill_windows(1);
  const std::string windows = spool.path() + "/windows.bin";
  const std::string before = windows + ".before";
  std::filesystem::copy_file(windows, before);
  const uint64_t word = page.handed(log.thread_log(), 0).load();
  CHECK(WindowPacker(spool.path()).pack_handed() == Result::done);
  CHECK(page.handed_windows() == 0);
  // As if it had not come so far: the writer maps the file, so its bytes are put back in place.
  const int from = open(before.c_str(), O_RDONLY | O_CLOEXEC);
  const int into = open(windows.c_str(), O_WRONLY | O_CLOEXEC);
  std::vector<char> bytes(kChunksPerWindow * kChunkBytes);
  const auto place = static_cast<off_t>(handed_place(word));
  REQUIRE(pread(from, bytes.data(), bytes.size(), place) == static_cast<ssize_t>(bytes.size()));
  REQUIRE(pwrite(into, bytes.data(), bytes.size(), place) == static_cast<ssize_t>(bytes.size()));
  close(from);
  close(into);
  page.handed(log.thread_log(), 0) = word | kHandedTaken;
  CHECK(read(spool.path()) == log.all());
  log.fill_windows(2);
  CHECK(read(spool.path()) == log.all());
}

TEST_CASE("a packer that sleeps is woken by the next window, and by its end") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  WindowPacker packer(spool.path());
  AtWork at_work(packer, spool.path());
  const auto sleeps = [&] { return page.packer().load() == PackerState::asleep; };
  for (uint64_t windows = 1; windows <= 3; ++windows) {
    REQUIRE(comes_true(sleeps));
    log.fill_windows(1);
    CHECK(comes_true([&] { return packer.windows_packed() == windows; }));
  }
  REQUIRE(comes_true(sleeps));
  CHECK(at_work.stop() == Left::stopped);
}

TEST_CASE("a packer leaves when the recording ends, and takes no window after that") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  NumberedLog log(recorder);
  WindowPacker packer(spool.path());
  AtWork at_work(packer, spool.path());
  log.fill_windows(2);
  recorder.close(true);
  CHECK(at_work.join() == Left::writer_ended);
  CHECK(read(spool.path()) == log.all());
  const uint64_t packed = packer.windows_packed();
  CHECK(packer.pack_handed() != Result::unable);
  CHECK(packer.windows_packed() == packed);
}

TEST_CASE("a packer leaves when the program was killed") {
  TemporaryDirectory spool;
  const pid_t program = fork();
  if (program == 0) {
    Recorder recorder(spool.path(), 0);
    NumberedLog log(recorder);
    const HandoverPage page(spool.path());
    page.packer() = PackerState::awake;
    log.fill_windows(3);
    _exit(0);
  }
  waitpid(program, nullptr, 0);
  WindowPacker packer(spool.path());
  CHECK(packer.pack_handed() == Result::writer_ended);
  CHECK(packer.work() == Left::writer_ended);
  CHECK(packer.windows_packed() == 0);
  CHECK(read(spool.path()).size() == 3 * kRecordsPerWindow + 1);
}

TEST_CASE("who holds the windows is left alone") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  page.packer() = PackerState::awake;
  log.fill_windows(1);
  WindowPacker packer(spool.path());
  const int converter = open((spool.path() + "/windows.bin").c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(flock(converter, LOCK_EX | LOCK_NB) == 0);
  CHECK(packer.pack_handed() == Result::done);
  CHECK(page.handed_windows() == 1);
  REQUIRE(flock(converter, LOCK_UN) == 0);
  CHECK(packer.pack_handed() == Result::done);
  CHECK(page.handed_windows() == 0);
  REQUIRE(flock(converter, LOCK_EX | LOCK_NB) == 0); // it was let go
  close(converter);
}

TEST_CASE("where there is no space to pack in, the program appends the rest itself") {
  size_t most_bytes = 0;
  SUBCASE("none at all") {}
  SUBCASE("for some chunks of a window") {
    most_bytes = 8 * 1024;
  }
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  page.packer() = PackerState::awake;
  log.fill_windows(1);
  WindowPacker packer(spool.path());
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto signal_before = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit little{most_bytes, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &little) == 0);
  const bool was_unable = packer.pack_handed() == Result::unable;
  const Left left = was_unable ? packer.work() : Left::stopped;
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, signal_before);
  CHECK(left == Left::unable);
  CHECK(packer.windows_packed() == 0);
  CHECK((std::filesystem::file_size(spool.path() + "/packed-0.bin") > 0) == (most_bytes > 0));
  CHECK(page.packer().load() == PackerState::none);
  CHECK(read(spool.path()) == log.all());
  log.fill_windows(4);
  CHECK(read(spool.path()) == log.all());
  CHECK(records_file_bytes(spool) > 0);
  CHECK(recorder.lost(Loss::event_no_space) == 0);
}

TEST_CASE("nothing is packed through a link") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const std::string other = spool.path() + "/a file of the user's";
  std::ofstream(other) << "text";
  std::filesystem::create_symlink(other, spool.path() + "/packed-0.bin");
  CHECK_THROWS_AS(WindowPacker(spool.path()), SpoolError);
  CHECK(std::filesystem::file_size(other) == 4);
}

TEST_CASE("words that name no window are refused") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  const HandoverPage page(spool.path());
  NumberedLog log(recorder);
  log.append();
  WindowPacker packer(spool.path());
  for (const uint64_t word :
       {handed_window(0, kChunksPerWindow + 1), handed_window(kChunkBytes, 200),
        handed_window(uint64_t{1} << 40, 1), uint64_t{1}}) {
    page.handed(log.thread_log(), 3) = word;
    CHECK(packer.pack_handed() == Result::unable);
  }
  CHECK(read(spool.path()) == log.all());
}

TEST_CASE(
    "within a limit of disk space, and of the logs beyond the first, nothing is handed over") {
  TemporaryDirectory spool, limited_spool;
  Recorder recorder(spool.path(), 0);
  for (uint32_t logs = 1; logs < kLargeLogs; ++logs)
    recorder.acquire_log();
  NumberedLog small(recorder);
  REQUIRE_FALSE(small.thread_log().is_large());
  HandoverPage(spool.path()).packer() = PackerState::awake;
  small.fill_windows(2);
  CHECK(HandoverPage(spool.path()).handed_windows() == 0);
  Recorder limited(limited_spool.path(), 0, uint64_t{1} << 30);
  HandoverPage(limited_spool.path()).packer() = PackerState::awake;
  NumberedLog log(limited);
  log.fill_windows(2);
  CHECK(HandoverPage(limited_spool.path()).handed_windows() == 0);
}

TEST_CASE("packer, compactor, follower and threads that record, all at once") {
  TemporaryDirectory spool;
  Recorder recorder(spool.path(), 0);
  constexpr size_t kWindows = 60;
  std::vector<NumberedLog> logs;
  for (int i = 0; i < 3; ++i)
    logs.emplace_back(recorder);
  WindowPacker packer(spool.path());
  SpoolFollower follower(spool.path());
  SpoolCompactor compactor(spool.path());
  Numbers followed;
  {
    AtWork at_work(packer, spool.path());
    std::atomic<int> writing = static_cast<int>(logs.size());
    std::vector<std::thread> threads;
    for (NumberedLog& log : logs)
      threads.emplace_back([&] {
        log.fill_windows(kWindows); // faster than anyone packs: some are taken back
        --writing;
      });
    while (writing > 0) {
      take_some(follower, false, followed);
      CHECK(compactor.compact(follower));
    }
    for (std::thread& thread : threads)
      thread.join();
  }
  CHECK(packer.windows_packed() > 0);
  CHECK(recorder.lost(Loss::event_no_space) == 0);
  take_some(follower, true, followed);
  CHECK(follower.missing_chunks() == 0);
  CHECK(follower.order_gaps() == 0);
  CHECK(compactor.compact(follower));
  const Numbers at_end = read(spool.path());
  for (const Numbers& found : {followed, at_end}) {
    CHECK(found.size() == logs.size() * (kWindows * kRecordsPerWindow + 1));
    for (const NumberedLog& log : logs) {
      Numbers own;
      std::ranges::copy_if(found, std::back_inserter(own), [&](uint64_t number) {
        return number >> 32 == log.thread_log().number;
      });
      CHECK(own == log.all());
    }
  }
}
