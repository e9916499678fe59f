// Whether the process that writes a spool still runs, asked from any other process.
//
// The answer decides if a spool may be converted and deleted, so it never rests on a clock of the
// day (which steps) nor on a process number alone (which comes again, and means another process in
// another container). Nor on a lock: a lock on a descriptor is gone when a daemon closes all
// descriptors, and a child forked behind our back keeps it. What cannot be told is told as that.
#pragma once

#include "record/spool.h"

#include <string>

namespace memtrace {

enum class WriterLife {
  running,
  ended,
  unknown, // another machine's, another start's of this one, another container's: and no proof
};

// What tells this process from all others; zeros where it cannot be found out.
Writer this_writer() noexcept;

// Of the writer of spool/process=KEY. A writer that only closed its spool (Control::complete) is
// still running.
WriterLife writer_life(const std::string& directory) noexcept;

// The number of the writer here, in this process's /proc; 0: it has ended or
// writes no more, or is another namespace's.
int writer_pid(const std::string& directory) noexcept;

} // namespace memtrace
