// A spool that cannot be read. The message is one line for the user.
#pragma once

#include <stdexcept>

namespace memtrace {

class SpoolError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

} // namespace memtrace
