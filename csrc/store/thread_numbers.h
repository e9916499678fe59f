// Threads have two numbers: the recorder's, in records, and RecordFunction's, by which autograd
// names the thread of a forward call.
#pragma once

#include "record/spool.h"
#include "store/text_table.h"

#include <cstdint>
#include <cstring>
#include <unordered_map>

namespace memtrace {

class ThreadNumbers {
 public:
  explicit ThreadNumbers(const TextTable& text) : text_(text) { read(); }

  // The recorder's number of RecordFunction's; 0: it recorded nothing.
  uint32_t recorded(uint64_t record_function_thread) const {
    if (texts_read_ != text_.texts_of_threads())
      read();
    const auto found = threads_.find(record_function_thread);
    return found != threads_.end() ? found->second : 0;
  }

 private:
  void read() const {
    texts_read_ = text_.texts_of_threads();
    for (const uint32_t thread : text_.ids(TextKind::thread)) {
      ThreadText fields{};
      const auto payload = text_.find(TextKind::thread, thread);
      if (!payload || payload->size() != sizeof fields)
        continue;
      std::memcpy(&fields, payload->data(), sizeof fields);
      if (fields.record_function_thread != 0)
        threads_[fields.record_function_thread] = thread;
    }
  }

  const TextTable& text_;
  mutable std::unordered_map<uint64_t, uint32_t> threads_;
  mutable size_t texts_read_ = 0;
};

} // namespace memtrace
