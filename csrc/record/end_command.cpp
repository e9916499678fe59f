#include "record/end_command.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace memtrace {
namespace {

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 2); // the status, and null
  for (std::string& text : texts)
    result.push_back(text.data());
  return result;
}

bool only_standard_error(posix_spawn_file_actions_t* files) noexcept {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fd == STDERR_FILENO && fcntl(fd, F_GETFD) >= 0)
      continue;
    // A closed one, too: its number must not become that of a file the command opens.
    if (posix_spawn_file_actions_addopen(files, fd, "/dev/null", O_RDWR, 0) != 0)
      return false;
  }
  return true;
}

// What the program blocks or ignores would be inherited.
bool as_a_new_process(posix_spawnattr_t* attributes) noexcept {
  sigset_t none{}, all{};
  sigemptyset(&none);
  sigfillset(&all);
  const auto flags =
      static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  return posix_spawnattr_setflags(attributes, flags) == 0 &&
         posix_spawnattr_setsigmask(attributes, &none) == 0 &&
         posix_spawnattr_setsigdefault(attributes, &all) == 0;
}

bool wait_for(pid_t pid) noexcept {
  int wait_status = 0;
  pid_t ended = 0;
  do {
    ended = waitpid(pid, &wait_status, 0);
  } while (ended < 0 && errno == EINTR);
  // ECHILD: the program ignores SIGCHLD, or another of its threads has waited; it has ended.
  return ended < 0 || WIFEXITED(wait_status);
}

} // namespace

bool adopts_orphans() noexcept {
  int is_subreaper = 0;
  return getpid() == 1 ||
         (prctl(PR_GET_CHILD_SUBREAPER, &is_subreaper, 0, 0, 0) == 0 && is_subreaper != 0);
}

EndCommand::EndCommand(std::vector<std::string> words, std::vector<std::string> environment)
    : words_(std::move(words)), environment_(std::move(environment)), argv_(pointers(words_)),
      envp_(pointers(environment_)) {
  argv_.push_back(status_.data());
  argv_.push_back(nullptr);
  envp_.push_back(nullptr);
}

bool EndCommand::run(int status) noexcept {
  snprintf(status_.data(), status_.size(), "%d", status & 0xff);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  if (posix_spawn_file_actions_init(&files) != 0)
    return false;
  bool done = false;
  if (posix_spawnattr_init(&attributes) == 0) {
    pid_t pid = 0;
    done = only_standard_error(&files) && as_a_new_process(&attributes) &&
           posix_spawn(&pid, argv_[0], &files, &attributes, argv_.data(), envp_.data()) == 0 &&
           wait_for(pid);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&files);
  return done;
}

} // namespace memtrace
