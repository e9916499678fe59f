// Adds to a spool what only others know of its process: how it ended, once it is gone.
//
// Whoever calls this knows that the writer writes no more: it has ended, or it became another
// program (exec). The finaliser does so for the program that it watched, an exec'ed Python for what
// the process was before.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace memtrace {

struct SpoolEnd {
  std::optional<int> exit_status;
  // The writer was stopped in order, though it did not say so itself: its last record is in the
  // file.
  bool complete = false;
  std::string_view process_note; // JSON object, the last one of the process; empty: none
};

// False, with a one-line reason: the spool is not there or not one.
bool seal_spool(const std::string& directory, const SpoolEnd& end, std::string* reason);

} // namespace memtrace
