#include "store/window_packer.h"

#include "record/event.h"
#include "record/writer_life.h"
#include "store/spool_error.h"
#include "store/spool_reader.h"

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <linux/futex.h>
#include <span>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

namespace memtrace {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

// A log has room for three more windows meanwhile. Within so long after the last one it is looked
// for windows without being woken, which costs the program a call into the kernel.
constexpr auto kPollPeriod = 2ms;
constexpr auto kPollFor = 100ms;
constexpr auto kLookForEnd = 1s;

constexpr size_t kWindowBytes = kChunksPerWindow * kChunkBytes;

SpoolError error_of(const std::string& path) {
  return SpoolError{"cannot open " + path + ": " + std::generic_category().message(errno)};
}

// Owned until it is released.
struct Descriptor {
  explicit Descriptor(const std::string& path)
      : fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW)) {}
  ~Descriptor() {
    if (fd >= 0)
      ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int fd;
};

} // namespace

WindowPacker::WindowPacker(const std::string& directory)
    : directory_(directory), control_file_(directory + "/control.bin"), packed_(directory) {
  const Control control = SpoolReader::read_control(directory + "/control.bin");
  if (control_file_.size() < sizeof(Control)) // it was being made when it was mapped
    throw SpoolError(directory + "/control.bin is cut short");
  if (control.version != kSpoolVersion || control.chunk_bytes != kChunkBytes)
    throw SpoolError(directory + ": not a spool of this version");
  const std::string handover_path = directory + "/handover.bin";
  const std::string windows_path = directory + "/windows.bin";
  const Descriptor handover_file(handover_path);
  if (handover_file.fd < 0)
    throw error_of(handover_path);
  Descriptor windows_file(windows_path);
  if (windows_file.fd < 0)
    throw error_of(windows_path);
  if (flock(windows_file.fd, LOCK_EX | LOCK_NB) != 0)
    throw error_of(windows_path);
  flock(windows_file.fd, LOCK_UN);
  struct stat status{};
  if (fstat(handover_file.fd, &status) != 0 || std::cmp_less(status.st_size, kHandoverBytes))
    throw SpoolError(handover_path + " is cut short");
  void* page =
      mmap(nullptr, kHandoverBytes, PROT_READ | PROT_WRITE, MAP_SHARED, handover_file.fd, 0);
  if (page == MAP_FAILED)
    throw error_of(handover_path);
  handover_ = static_cast<Handover*>(page);
  windows_fd_ = std::exchange(windows_file.fd, -1);
}

WindowPacker::~WindowPacker() {
  for (const auto& [place, window] : windows_)
    munmap(window, kWindowBytes);
  munmap(handover_, kHandoverBytes);
  ::close(windows_fd_);
}

WindowPacker::Left WindowPacker::work() {
  Left left = Left::stopped;
  state().store(PackerState::awake);
  auto last_packed = SteadyClock::now();
  while (!stopping_) {
    const uint64_t before = windows_packed_;
    const Result result = pack_handed();
    if (result != Result::done) {
      left = result == Result::writer_ended ? Left::writer_ended : Left::unable;
      break;
    }
    const auto now = SteadyClock::now();
    if (windows_packed_ != before)
      last_packed = now;
    if (now - last_packed < kPollFor || anything_handed()) { // or it is held by somebody else
      std::this_thread::sleep_for(kPollPeriod);
      continue;
    }
    sleep_until_woken();
    if (writer_ended()) {
      left = Left::writer_ended;
      break;
    }
  }
  state().store(PackerState::none);
  return left;
}

void WindowPacker::stop() noexcept {
  stopping_ = true;
  PackerState asleep = PackerState::asleep;
  if (state().compare_exchange_strong(asleep, PackerState::awake))
    syscall(SYS_futex, &handover_->packer, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

// Who hands over a window looks whether we sleep after the window is there to be seen.
void WindowPacker::sleep_until_woken() {
  state().store(PackerState::asleep);
  if (!anything_handed() && !stopping_) {
    const timespec most{std::chrono::seconds(kLookForEnd).count(), 0};
    syscall(SYS_futex, &handover_->packer, FUTEX_WAIT, PackerState::asleep, &most, nullptr, 0);
  }
  state().store(PackerState::awake);
}

bool WindowPacker::anything_handed() const noexcept {
  for (uint64_t& word : handover_->handed)
    if (const uint64_t handed = std::atomic_ref(word).load();
        handed != 0 && (handed & kHandedTaken) == 0)
      return true;
  return false;
}

bool WindowPacker::writer_ended() const noexcept {
  const auto* complete =
      reinterpret_cast<const uint32_t*>(control_file_.data() + offsetof(Control, complete));
  return __atomic_load_n(complete, __ATOMIC_ACQUIRE) != 0 ||
         writer_life(directory_) != WriterLife::running;
}

WindowPacker::Result WindowPacker::pack_handed() {
  for (uint64_t& word : handover_->handed)
    if (const Result result = pack(std::atomic_ref(word)); result != Result::done)
      return result;
  return Result::done;
}

WindowPacker::Result WindowPacker::pack(std::atomic_ref<uint64_t> handed) {
  uint64_t word = handed.load(std::memory_order_acquire);
  if (word == 0 || (word & kHandedTaken) != 0)
    return Result::done;
  if (flock(windows_fd_, LOCK_EX | LOCK_NB) != 0) // it is being converted, or looked at
    return writer_ended() ? Result::writer_ended : Result::done;
  Result result = Result::done;
  if (writer_ended()) {
    result = Result::writer_ended;
  } else if (void* window = map_window(word); !window) {
    result = Result::unable;
  } else if (handed.compare_exchange_strong(word, word | kHandedTaken)) {
    if (pack_chunks(window, handed_chunks(word))) {
      ++windows_packed_;
      handed.store(0, std::memory_order_release);
    } else {
      handed.store(word, std::memory_order_release); // the log appends it itself
      result = Result::unable;
    }
  }
  flock(windows_fd_, LOCK_UN);
  return result;
}

// Each is cleared when it is packed: where there is no space for the next one, it is not in both.
bool WindowPacker::pack_chunks(void* window, uint32_t chunks) {
  constexpr size_t kPlaces = kRecordsPerChunk + 1;
  auto* chunk = static_cast<Record*>(window);
  for (uint32_t number = 0; number < chunks; ++number, chunk += kPlaces) {
    ChunkHeader header{};
    std::memcpy(&header, chunk, sizeof header);
    if (header.magic == 0)
      continue; // there was space for it before
    size_t end = 1;
    while (end < kPlaces && chunk[end].event.tail.action != Action::none)
      ++end;
    if (header.magic != kChunkMagic || !packed_.add(header, std::span(chunk + 1, chunk + end)))
      return false;
    std::atomic_ref(reinterpret_cast<ChunkHeader*>(chunk)->magic)
        .store(0, std::memory_order_release);
    for (size_t i = 1; i < kPlaces; ++i) // a record without a tail does not exist
      chunk[i].event.tail = {};
  }
  return true;
}

// Null: that is no place of a window.
void* WindowPacker::map_window(uint64_t word) {
  const uint64_t place = handed_place(word);
  const uint32_t chunks = handed_chunks(word);
  struct stat status{};
  if (chunks == 0 || chunks > kChunksPerWindow || fstat(windows_fd_, &status) != 0 ||
      std::cmp_greater(place + chunks * kChunkBytes, status.st_size))
    return nullptr;
  if (const auto known = windows_.find(place); known != windows_.end())
    return known->second;
  void* window = mmap(nullptr, kWindowBytes, PROT_READ | PROT_WRITE, MAP_SHARED, windows_fd_,
                      static_cast<off_t>(place));
  if (window == MAP_FAILED)
    return nullptr;
  return windows_.emplace(place, window).first->second;
}

} // namespace memtrace
