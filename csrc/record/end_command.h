// The command that a process runs as its last act, and waits for.
//
// The finaliser normally waits beside the program, and is an orphan, so that the program's wait()
// never sees it. Where orphans become children of the program itself, there is no such place:
// a loop of os.wait() until there are no children would never end. Then the finaliser is started
// only here, when the program waits for nothing any more.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace memtrace {

// Whether processes whose parent dies become children of this one: it is the first process of a
// container (process id 1), or has declared itself a subreaper.
bool adopts_orphans() noexcept;

class EndCommand {
 public:
  // The whole environment as NAME=VALUE; both are copied now, nothing is allocated for them later.
  EndCommand(std::vector<std::string> words, std::vector<std::string> environment);
  EndCommand(const EndCommand&) = delete;
  EndCommand& operator=(const EndCommand&) = delete;
  ~EndCommand() = default;

  // The exit status becomes its last word. It has our standard error and nothing else of ours: a
  // session of its own, signals as a new process has them. False: it could not be started, or died
  // of a signal.
  bool run(int status) noexcept;

 private:
  std::vector<std::string> words_, environment_;
  std::array<char, 16> status_{};
  std::vector<char*> argv_, envp_; // into the above; null at the end
};

} // namespace memtrace
