#include "record/writer_life.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <string_view>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace memtrace {
namespace {

// ---- /proc --------------------------------------------------------------------------------------

// As much of a file as fits; empty when it cannot be read.
std::string_view read_start(const char* path, char* buffer, size_t room) noexcept {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t size = fd < 0 ? -1 : read(fd, buffer, room);
  if (fd >= 0)
    close(fd);
  return {buffer, size > 0 ? static_cast<size_t>(size) : 0};
}

struct ProcessStat {
  char state = '?';
  uint64_t threads = 0;
  uint64_t start_ticks = 0; // since the machine started
};

std::optional<ProcessStat> read_stat(const char* path) noexcept {
  char buffer[1024];
  std::string_view text = read_start(path, buffer, sizeof buffer);
  // The name of the program may hold spaces and brackets: fields count from its last bracket on.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos)
    return std::nullopt;
  text.remove_prefix(name_end + 1);
  constexpr size_t kState = 0, kThreads = 17, kStart = 19;
  ProcessStat stat;
  for (size_t field = 0; field <= kStart; ++field) {
    const size_t begin = text.find_first_not_of(' ');
    if (begin == std::string_view::npos)
      return std::nullopt;
    const std::string_view word = text.substr(begin, text.find(' ', begin) - begin);
    text.remove_prefix(begin + word.size());
    if (field == kState)
      stat.state = word.front();
    if (field == kThreads || field == kStart)
      std::from_chars(word.data(), word.data() + word.size(),
                      field == kThreads ? stat.threads : stat.start_ticks);
  }
  return stat;
}

// Where the mounted /proc is another namespace's (unshare without --mount-proc), its numbers are.
bool proc_is_ours() noexcept {
  char target[32];
  const ssize_t size = readlink("/proc/self", target, sizeof target);
  long number = -1;
  if (size > 0)
    std::from_chars(target, target + size, number);
  return number == getpid();
}

std::optional<ProcessStat> stat_of(pid_t pid) noexcept {
  char path[64];
  static_cast<void>(snprintf(path, sizeof path, "/proc/%ld/stat", static_cast<long>(pid)));
  return proc_is_ours() ? read_stat(path) : std::nullopt;
}

bool exists(pid_t pid) noexcept {
  return kill(pid, 0) == 0 || errno != ESRCH;
}

// ---- the mapping --------------------------------------------------------------------------------

// The writer keeps control.bin mapped for its life, and the kernel knows it: it grants a read lease
// only on a file that nobody has open for writing, and a writable mapping counts as that. Unlike a
// descriptor or a lock on one, the mapping stays when a program closes all descriptors, is not
// inherited by forked children (MADV_DONTFORK), and ends with the process or its exec.
enum class Mapping { none, there, unknown };

enum class FileSystem { local, overlay, other };

FileSystem file_system(int fd) noexcept {
  constexpr uint32_t kOverlay = 0x794c7630;
  constexpr std::array<uint32_t, 6> kLocal = {
      0x0000ef53, // ext2, ext3, ext4
      0x58465342, // xfs
      0x9123683e, // btrfs
      0xf2f52010, // f2fs
      0x01021994, // tmpfs
      0x2fc12fc1, // zfs
  };
  struct statfs about{};
  if (fstatfs(fd, &about) != 0)
    return FileSystem::other;
  const auto kind = static_cast<uint32_t>(about.f_type);
  if (kind == kOverlay)
    return FileSystem::overlay;
  return std::ranges::count(kLocal, kind) > 0 ? FileSystem::local : FileSystem::other;
}

Mapping writable_mapping(int fd) noexcept {
  // An overlay maps the file below it, and a network file system knows nothing of other machines.
  if (file_system(fd) != FileSystem::local)
    return Mapping::unknown;
  // Somebody who opens the file for writing in this very moment makes the kernel send a signal to
  // the holder of the lease: one that is ignored by default, where SIGIO would end us.
  static_cast<void>(fcntl(fd, F_SETSIG, SIGURG));
  if (fcntl(fd, F_SETLEASE, F_RDLCK) != 0)
    return errno == EAGAIN ? Mapping::there : Mapping::unknown; // not our file, leases turned off
  static_cast<void>(fcntl(fd, F_SETLEASE, F_UNLCK));
  return Mapping::none;
}

// ---- the answer ---------------------------------------------------------------------------------

// In the writer's own namespace.
WriterLife life_of_process(pid_t pid, uint64_t start_ticks, int control_fd) noexcept {
  if (!exists(pid))
    return WriterLife::ended;
  const auto found = stat_of(pid);
  if (!found || start_ticks == 0)
    return exists(pid) ? WriterLife::running : WriterLife::ended;
  if (found->start_ticks != start_ticks) // the number came again, or clocks are shifted between us
    return writable_mapping(control_fd) == Mapping::there ? WriterLife::running : WriterLife::ended;
  // A zombie whose other threads go on is a main thread that left early.
  const bool gone = found->state == 'X' || (found->state == 'Z' && found->threads <= 1);
  return gone ? WriterLife::ended : WriterLife::running;
}

// The writer died before, or is about to write, its first word: there is only the spool's name,
// process=HOST-PID-START.
WriterLife life_by_name(std::string_view directory, int control_fd) noexcept {
  if (control_fd >= 0 && writable_mapping(control_fd) == Mapping::there)
    return WriterLife::running;
  const size_t end = directory.rfind('-');
  const size_t begin =
      end == 0 || end == std::string_view::npos ? end : directory.rfind('-', end - 1);
  int pid = 0;
  if (begin == std::string_view::npos || begin == end)
    return WriterLife::unknown;
  std::from_chars(directory.data() + begin + 1, directory.data() + end, pid);
  if (pid <= 0)
    return WriterLife::unknown;
  return exists(pid) ? WriterLife::running : WriterLife::ended;
}

template <size_t Room> bool same_text(const char (&a)[Room], const char (&b)[Room]) noexcept {
  return a[0] != 0 && std::strncmp(a, b, Room) == 0;
}

WriterLife life(const std::string& directory, int control_fd) noexcept {
  Control control{};
  if (control_fd < 0 || pread(control_fd, &control, sizeof control, 0) != sizeof control ||
      control.magic != kSpoolMagic)
    return life_by_name(directory, control_fd);
  const Writer& writer = control.writer;
  const Writer here = this_writer();
  if (!same_text(writer.boot_id, here.boot_id)) {
    // Machines in a cluster may have one name; on a disk of its own the name means this machine,
    // which has been started again since.
    const bool restarted = writer.boot_id[0] != 0 && here.boot_id[0] != 0 &&
                           same_text(writer.host, here.host) &&
                           file_system(control_fd) != FileSystem::other;
    return restarted ? WriterLife::ended : WriterLife::unknown;
  }
  // A namespace's number comes again, but not while a process in it lives.
  if (writer.pid_namespace != 0 && writer.pid_namespace == here.pid_namespace &&
      control.pid - 1 < INT_MAX)
    return life_of_process(static_cast<pid_t>(control.pid), writer.start_ticks, control_fd);
  switch (writable_mapping(control_fd)) {
  case Mapping::there:
    return WriterLife::running;
  case Mapping::none:
    return WriterLife::ended;
  case Mapping::unknown:
    break;
  }
  return WriterLife::unknown;
}

// -1: there is none.
int open_control(const std::string& directory) noexcept {
  char path[PATH_MAX];
  const int size = snprintf(path, sizeof path, "%s/control.bin", directory.c_str());
  return size < PATH_MAX ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
}

template <size_t Room> void copy_line(std::string_view text, char (&into)[Room]) noexcept {
  text.substr(0, text.find('\n')).copy(into, Room - 1);
}

} // namespace

Writer this_writer() noexcept {
  Writer writer{};
  const auto own = read_stat("/proc/self/stat");
  writer.start_ticks = own ? own->start_ticks : 0;
  struct stat about{};
  if (stat("/proc/self/ns/pid", &about) == 0)
    writer.pid_namespace = about.st_ino;
  char buffer[64];
  copy_line(read_start("/proc/sys/kernel/random/boot_id", buffer, sizeof buffer), writer.boot_id);
  struct utsname names{};
  if (uname(&names) == 0)
    copy_line(names.nodename, writer.host);
  return writer;
}

WriterLife writer_life(const std::string& directory) noexcept {
  const int fd = open_control(directory);
  const WriterLife found = life(directory, fd);
  if (fd >= 0)
    close(fd);
  return found;
}

int writer_pid(const std::string& directory) noexcept {
  Control control{};
  const int fd = open_control(directory);
  const bool read = fd >= 0 && pread(fd, &control, sizeof control, 0) == sizeof control;
  if (fd >= 0)
    close(fd);
  const Writer& writer = control.writer;
  const Writer here = this_writer();
  if (!read || control.magic != kSpoolMagic || control.complete != 0 ||
      control.pid - 1 >= INT_MAX || !same_text(writer.boot_id, here.boot_id) ||
      writer.pid_namespace == 0 || writer.pid_namespace != here.pid_namespace ||
      writer.start_ticks == 0)
    return 0;
  const auto pid = static_cast<pid_t>(control.pid);
  const auto found = stat_of(pid);
  return found && found->start_ticks == writer.start_ticks ? pid : 0;
}

} // namespace memtrace
