#include "record/writer_life.h"

#include "record/recorder.h"
#include "record/spool_files.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <functional>
#include <sys/wait.h>
#include <unistd.h>

using namespace memtrace;
using namespace memtrace::test;

namespace {

// A child that records into `spool` until it is killed.
class RecordingChild {
 public:
  explicit RecordingChild(const std::string& spool, const std::function<void(int)>& then = {}) {
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      Recorder recorder(spool, 0);
      if (then)
        then(ready[1]);
      static_cast<void>(write(ready[1], "r", 1));
      for (;;)
        pause();
    }
    char byte = 0;
    REQUIRE(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    close(ready[1]);
  }
  ~RecordingChild() { kill_and_reap(); }
  void kill_and_reap() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    pid_ = 0;
  }
  void kill_only() const {
    kill(pid_, SIGKILL);
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }

 private:
  pid_t pid_ = 0;
};

// Only while nobody maps the page: to open it for writing is what writer_life looks for.
void change(const std::string& spool, const std::function<void(Control&)>& how) {
  Control control = read_control(spool);
  how(control);
  const int fd = open((spool + "/control.bin").c_str(), O_WRONLY);
  REQUIRE(pwrite(fd, &control, sizeof control, 0) == sizeof control);
  close(fd);
}

// Where /tmp is a container's overlay, the kernel does not tell of mappings.
constexpr const char* kLocal = "/dev/shm";

void as_of_another_namespace(const std::string& spool) {
  change(spool, [](Control& control) { control.writer.pid_namespace = 1; });
}

} // namespace

TEST_CASE("a writer runs until it is killed, whatever the clock of the day says") {
  TemporaryDirectory spool;
  RecordingChild child(spool.path());
  change(spool.path(), [](Control& control) { control.start_unix_ns = 1; });
  CHECK(writer_life(spool.path()) == WriterLife::running);
  SUBCASE("nobody has waited for it yet") {
    child.kill_only();
  }
  SUBCASE("it is gone") {
    child.kill_and_reap();
  }
  CHECK(writer_life(spool.path()) == WriterLife::ended);
}

TEST_CASE("its number in another process is not the writer") {
  TemporaryDirectory spool;
  {
    Recorder recorder(spool.path(), 0);
  }
  change(spool.path(), [](Control& control) { control.complete = 0; });
  CHECK(writer_life(spool.path()) == WriterLife::running); // this process
  change(spool.path(), [](Control& control) { control.writer.start_ticks += 1; });
  CHECK(writer_life(spool.path()) == WriterLife::ended);
}

TEST_CASE("from another namespace the writer is seen by its mapping") {
  TemporaryDirectory spool(kLocal);
  std::function<void(int)> then;
  SUBCASE("of a plain process") {}
  SUBCASE("of one that closed all descriptors") {
    then = [](int ready) {
      for (int fd = 3; fd < 4096; ++fd)
        if (fd != ready)
          close(fd);
    };
  }
  RecordingChild child(spool.path(), then);
  as_of_another_namespace(spool.path());
  CHECK(writer_life(spool.path()) == WriterLife::running);
  child.kill_and_reap();
  CHECK(writer_life(spool.path()) == WriterLife::ended);
}

TEST_CASE("a child that was forked behind our back does not stand for its parent") {
  TemporaryDirectory spool(kLocal);
  RecordingChild child(spool.path(), [&spool](int) {
    if (fork() != 0)
      return;
    while (std::filesystem::exists(spool.path())) // until the test is over, with all descriptors
      usleep(1000);
    _exit(0);
  });
  as_of_another_namespace(spool.path());
  CHECK(writer_life(spool.path()) == WriterLife::running);
  child.kill_and_reap();
  CHECK(writer_life(spool.path()) == WriterLife::ended);
}

TEST_CASE("another start of this machine, and another machine") {
  TemporaryDirectory spool;
  {
    Recorder recorder(spool.path(), 0);
  }
  change(spool.path(), [](Control& control) { control.writer.boot_id[0] ^= 1; });
  CHECK(writer_life(spool.path()) == WriterLife::ended);
  change(spool.path(), [](Control& control) { control.writer.host[0] ^= 1; });
  CHECK(writer_life(spool.path()) == WriterLife::unknown);
  change(spool.path(), [](Control& control) { control.writer = {}; });
  CHECK(writer_life(spool.path()) == WriterLife::unknown);
}

TEST_CASE("the number of the writer is told where it means that process") {
  TemporaryDirectory spool;
  CHECK(writer_pid(spool.path()) == 0);
  {
    Recorder recorder(spool.path(), 0);
    CHECK(writer_pid(spool.path()) == getpid());
  }
  CHECK(writer_pid(spool.path()) == 0); // it writes no more
  change(spool.path(), [](Control& control) { control.complete = 0; });
  CHECK(writer_pid(spool.path()) == getpid());
  SUBCASE("the number came again") {
    change(spool.path(), [](Control& control) { control.writer.start_ticks += 1; });
  }
  SUBCASE("another namespace") {
    as_of_another_namespace(spool.path());
  }
  SUBCASE("another start of the machine") {
    change(spool.path(), [](Control& control) { control.writer.boot_id[0] ^= 1; });
  }
  SUBCASE("before the first word") {
    change(spool.path(), [](Control& control) { control.magic = 0; });
  }
  CHECK(writer_pid(spool.path()) == 0);
}

TEST_CASE("before the first word there is only the spool's name") {
  TemporaryDirectory trace;
  const auto made = [&trace](const std::string& key) {
    const std::string path = trace.path() + "/process=" + key;
    std::filesystem::create_directory(path);
    return path;
  };
  const std::string own = std::to_string(getpid());
  CHECK(writer_life(made("a-host-" + own + "-x")) == WriterLife::running);
  CHECK(writer_life(made("a-host-999999999-x")) == WriterLife::ended);
  CHECK(writer_life(made("odd")) == WriterLife::unknown);
  CHECK(writer_life(trace.path() + "/absent") == WriterLife::unknown);
}
