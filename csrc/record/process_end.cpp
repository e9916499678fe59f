#include "record/process_end.h"

#include "record/end_command.h"
#include "record/recorder.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <unistd.h>
#include <utility>

namespace memtrace {
namespace {

// Never destroyed: exit handlers may run after static destructors.
struct ProcessEnd {
  pid_t pid;
  std::string end_fifo, done_fifo, hint;
  std::unique_ptr<EndCommand> command; // instead of the FIFOs
  std::atomic<bool> announced{false};
};
ProcessEnd* g_end = nullptr;

// The recorder lives for ever, its control page stays mapped until another one begins. A child that
// was forked behind our back has the handler and the recorder of its parent.
struct StatusKeeper {
  std::atomic<Recorder*> recorder{nullptr};
  std::atomic<pid_t> pid{0};
  std::atomic<bool> registered{false};
};
StatusKeeper g_keeper;

bool send_status(const ProcessEnd& end, int status) noexcept {
  const int fd = open(end.end_fifo.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0)
    return false; // ENXIO: nobody reads
  char message[64];
  const int size =
      snprintf(message, sizeof message, "end %ld %d\n", static_cast<long>(end.pid), status & 0xff);
  const bool sent = write(fd, message, static_cast<size_t>(size)) == size;
  close(fd);
  return sent;
}

// True: the finaliser said that it is done. A second Ctrl-C ends the wait: Python has put SIGINT
// back to its default by now.
bool wait_until_done(int fd) noexcept {
  pollfd waited{fd, POLLIN, 0};
  int ready = 0;
  do {
    ready = poll(&waited, 1, -1);
  } while (ready < 0 && errno == EINTR);
  char byte = 0;
  return ready > 0 && read(fd, &byte, 1) == 1;
}

// What C code printed comes before the summary, as exit() itself would do later. Not all streams: a
// thread may sit in a read of the terminal and hold its lock for ever.
void flush_output() noexcept {
  for (FILE* stream : {stdout, stderr}) {
    if (ftrylockfile(stream) != 0)
      continue;
    fflush_unlocked(stream);
    funlockfile(stream);
  }
}

// A timer that the program has set may run out while it only waits, with Python's handler gone:
// without us the process would not be there any more. What asks a process to end still ends it.
void ignore_late_signals() noexcept {
  for (const int number : {SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGPIPE, SIGIO}) {
    struct sigaction now{};
    if (sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_DFL)
      signal(number, SIG_IGN);
  }
}

// The finaliser is told, and has answered; or it is out of our reach, and answers by itself.
bool finish_beside(const ProcessEnd& end, int status) noexcept {
  // Opened before the message, so that the byte cannot come and go in between.
  const int done = open(end.done_fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (done < 0)
    return errno == EACCES || errno == ENOENT; // after setuid(), after chroot()
  const bool finished = send_status(end, status) && wait_until_done(done);
  close(done);
  return finished;
}

void at_exit(int status, void*) {
  flush_output();
  announce_process_end(status);
}

#ifdef __GLIBC__
void keep_status(int status, void*) {
  Recorder* recorder = g_keeper.recorder.load();
  if (recorder && g_keeper.pid.load() == getpid())
    recorder->set_exit_status(status & 0xff);
}
#endif

void watch(ProcessEnd* end) {
  g_end = end;
#ifdef __GLIBC__
  on_exit(at_exit, nullptr);
#else
  atexit([] { at_exit(0, nullptr); });
#endif
}

bool is_watched() noexcept {
  return g_end != nullptr && g_end->pid == getpid();
}

} // namespace

void note_exit_status_in(Recorder* recorder) noexcept {
  g_keeper.pid.store(getpid());
  g_keeper.recorder.store(recorder);
#ifdef __GLIBC__
  if (!g_keeper.registered.exchange(true)) // a forked child has its parent's handlers
    on_exit(keep_status, nullptr);
#endif
}

void watch_process_end(const std::string& end_fifo, const std::string& done_fifo,
                       const std::string& hint) {
  if (!is_watched())
    watch(new ProcessEnd{getpid(), end_fifo, done_fifo, hint, nullptr});
}

void run_at_process_end(std::vector<std::string> command, std::vector<std::string> environment,
                        const std::string& hint) {
  if (!is_watched())
    watch(new ProcessEnd{getpid(), "", "", hint,
                         std::make_unique<EndCommand>(std::move(command), std::move(environment))});
}

void announce_process_end(int status) noexcept {
  ProcessEnd* end = g_end;
  if (!end || end->pid != getpid() || end->announced.exchange(true))
    return;
  ignore_late_signals();
  const bool finished = end->command ? end->command->run(status) : finish_beside(*end, status);
  if (!finished) {
    const ssize_t ignored = write(STDERR_FILENO, end->hint.data(), end->hint.size());
    (void)ignored;
  }
}

} // namespace memtrace
