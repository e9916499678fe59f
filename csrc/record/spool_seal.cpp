#include "record/spool_seal.h"

#include "record/clock.h"
#include "record/spool.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace memtrace {
namespace {

bool seal_control(Control* control, const SpoolEnd& end) {
  if (control->magic != kSpoolMagic || control->version != kSpoolVersion)
    return false;
  if (end.exit_status) {
    control->exit_status = *end.exit_status;
    control->has_exit_status = 1;
  }
  if (end.complete && !control->complete) {
    control->end = clock_anchor();
    control->end_unix_ns = clock_ns(CLOCK_REALTIME);
    std::atomic_ref<uint32_t>(control->complete).store(1, std::memory_order_release);
  }
  return true;
}

// Where the next frame goes: behind the last whole one.
off_t end_of_text(int fd, off_t size) {
  off_t at = 0;
  TextFrame frame{};
  while (at + static_cast<off_t>(sizeof frame) <= size &&
         pread(fd, &frame, sizeof frame, at) == static_cast<ssize_t>(sizeof frame) &&
         frame.check == kTextCheck &&
         at + static_cast<off_t>(sizeof frame) + static_cast<off_t>(frame.length) <= size)
    at += static_cast<off_t>(sizeof frame) + static_cast<off_t>(frame.length);
  return at;
}

bool append_note(int fd, std::string_view note) {
  struct stat about{};
  if (fstat(fd, &about) != 0)
    return false;
  const TextFrame frame{static_cast<uint32_t>(note.size()), TextKind::process, kTextCheck, 0};
  std::string bytes(reinterpret_cast<const char*>(&frame), sizeof frame);
  bytes += note;
  const off_t at = end_of_text(fd, about.st_size);
  if (ftruncate(fd, at) != 0)
    return false;
  errno = ENOSPC; // what a write that is cut short does not say
  return pwrite(fd, bytes.data(), bytes.size(), at) == static_cast<ssize_t>(bytes.size());
}

} // namespace

bool seal_spool(const std::string& directory, const SpoolEnd& end, std::string* reason) {
  const std::string path = directory + "/control.bin";
  const int control_fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  struct stat about{};
  void* page = MAP_FAILED;
  if (control_fd >= 0 && fstat(control_fd, &about) == 0 &&
      std::cmp_greater_equal(about.st_size, sizeof(Control)))
    page = mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, control_fd, 0);
  if (control_fd >= 0)
    close(control_fd);
  if (page == MAP_FAILED) {
    *reason = path + ": not the control page of a spool";
    return false;
  }
  const bool ours = seal_control(static_cast<Control*>(page), end);
  munmap(page, sizeof(Control));
  if (!ours) {
    *reason = directory + ": not a spool of this version";
    return false;
  }
  if (end.process_note.empty())
    return true;
  const std::string text = directory + "/text.log";
  const int text_fd = open(text.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  const bool noted = text_fd >= 0 && append_note(text_fd, end.process_note);
  if (!noted)
    *reason = text + ": " + std::generic_category().message(errno);
  if (text_fd >= 0)
    close(text_fd);
  return noted;
}

} // namespace memtrace
