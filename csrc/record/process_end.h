// The last thing that a watched program does: it tells the finaliser that it is at its end and
// waits until the answer is printed, so that the shell's prompt comes after it.
//
//   program                                   finaliser (has both ends open from the start)
//     end_fifo   "end PID STATUS\n"   ------>   stops waiting for the process, converts, prints
//     done_fifo  one byte, then EOF   <------   EOF without the byte: the finaliser died
//
// Runs in glibc's on_exit(): after Python is finalised and after every exit handler registered
// later (torch's among them), and it is told the exit status. Nothing here needs Python, allocates
// while waiting, or keeps a file descriptor open in the program. A forked child has its parent's
// handlers and does nothing in them.
#pragma once

#include <string>

namespace memtrace {

class Recorder;

// Once per process, early. `hint` is printed when the finaliser turns out to be dead.
void watch_process_end(const std::string& end_fifo, const std::string& done_fifo,
                       const std::string& hint);

// At once, for an end that runs no exit handler (os._exit). The first call counts.
void announce_process_end(int status) noexcept;

// Notes in a recorder's spool with which status this process exits: for children, of whom nobody
// else tells. The last call counts; a forked child calls it again. An end that runs no exit handler
// is noted by whoever sees it.
void note_exit_status_in(Recorder* recorder) noexcept;

} // namespace memtrace
