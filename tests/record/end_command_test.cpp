#include "record/end_command.h"

#include "record/spool_files.h"

#include <csignal>
#include <doctest/doctest.h>
#include <fstream>
#include <sys/prctl.h>

using namespace memtrace;
using namespace memtrace::test;

namespace {

bool run(const std::string& script, int status) {
  EndCommand command({"/bin/sh", "-c", script, "sh"}, {"GIVEN=yes"});
  return command.run(status);
}

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

} // namespace

TEST_CASE("the status is the last word, the environment is the given one, and it is waited for") {
  TemporaryDirectory folder;
  const std::string file = folder.path() + "/said";
  CHECK(run("sleep 0.05; echo $# $1 $GIVEN $PATH > " + file, 256 + 7));
  CHECK(read(file).starts_with("1 7 yes"));
}

TEST_CASE("what a command says by its own status is its own business") {
  CHECK(run("exit 3", 0));
}

TEST_CASE("a command that is not there, or dies of a signal, is told") {
  CHECK_FALSE(EndCommand({"/no/such/command"}, {}).run(0));
  CHECK_FALSE(run("kill -KILL $$", 0));
}

TEST_CASE("it starts with the signals of a new process") {
  sigset_t blocked{}, before{};
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  auto* const handler = std::signal(SIGHUP, SIG_IGN);
  CHECK_FALSE(run("kill -TERM $$", 0));
  CHECK_FALSE(run("kill -HUP $$", 0));
  std::signal(SIGHUP, handler);
  sigprocmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("it is waited for also where children are reaped by the kernel") {
  auto* const handler = std::signal(SIGCHLD, SIG_IGN);
  TemporaryDirectory folder;
  const std::string file = folder.path() + "/said";
  CHECK(run("sleep 0.05; echo done > " + file, 0));
  CHECK(read(file) == "done");
  std::signal(SIGCHLD, handler);
}

TEST_CASE("a subreaper adopts orphans") {
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  CHECK(adopts_orphans());
  prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
  CHECK_FALSE(adopts_orphans());
}
