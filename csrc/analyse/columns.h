// Rows of a dataset as columns, a batch at a time: what Parquet wants, with strings as codes.
//
// A Table is filled row by row and emptied by take(). Strings are ids of one StringPool; each batch
// carries only the strings that it uses. kNull stands for a missing value of any number.
#pragma once

#include <cassert>
#include <cstdint>
#include <deque>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace memtrace {

constexpr int64_t kNull = std::numeric_limits<int64_t>::min();

// A number that counts from 1 (a thread, a stack), of which 0 is none.
constexpr int64_t or_null(uint32_t number) {
  return number != 0 ? int64_t{number} : kNull;
}

enum class StringId : uint32_t { null = 0 };

class StringPool {
 public:
  StringPool() { strings_.emplace_back(); }
  StringId intern(std::string_view text);
  // For a text that hardly comes again: it stays until forget_passing(), when no row may name it
  // any more, or for good if it is interned meanwhile.
  StringId intern_passing(std::string_view text);
  void forget_passing();
  const std::string& operator[](StringId id) const { return strings_[static_cast<uint32_t>(id)]; }

 private:
  struct Known {
    uint32_t id;
    bool passing;
  };
  Known& find_or_add(std::string_view text, bool passing);

  std::deque<std::string> strings_;
  std::unordered_map<std::string_view, Known> ids_;
  std::vector<uint32_t> passing_, unused_; // ids
};

enum class ColumnType : uint8_t { int64, uint64, int32, boolean, string, int64_list };

struct ColumnSpec {
  const char* name;
  ColumnType type;
};

// A finished column of a batch.
struct ColumnData {
  const char* name;
  ColumnType type;
  std::vector<int64_t> words;          // all but strings; of a list, its items
  std::vector<int32_t> codes;          // strings: places in `dictionary`
  std::vector<uint8_t> validity;       // bitmap; empty: nothing is null
  std::vector<std::string> dictionary; // strings
  std::vector<int32_t> offsets;        // lists
};

struct Batch {
  std::string dataset;
  size_t rows = 0;
  bool ends_part = false; // the rows after these go to a new file
  std::vector<ColumnData> columns;
};

class Column {
 public:
  explicit Column(const ColumnSpec& spec) : spec_(spec) {}

  void push(int64_t value) { words_.push_back(value); }
  void push(uint64_t value) { words_.push_back(static_cast<int64_t>(value)); }
  void push(StringId id) {
    const auto global = static_cast<uint32_t>(id);
    if (global >= local_.size())
      local_.resize(global + global / 2 + 64, kAbsent);
    int32_t& code = local_[global];
    if (code == kAbsent) {
      code = static_cast<int32_t>(used_.size());
      used_.push_back(id);
    }
    codes_.push_back(code);
  }
  void push(const std::vector<int64_t>& items) {
    words_.insert(words_.end(), items.begin(), items.end());
    offsets_.push_back(static_cast<int32_t>(words_.size()));
  }
  ColumnData take(const StringPool& strings);

 private:
  static constexpr int32_t kAbsent = -1;
  void take_strings(const StringPool& strings, ColumnData& data);

  ColumnSpec spec_;
  std::vector<int64_t> words_;
  std::vector<int32_t> codes_, offsets_;
  std::vector<int32_t> local_; // id of the pool -> code in this batch
  std::vector<StringId> used_; // code -> id
};

class Table {
 public:
  Table(std::string dataset, const std::vector<ColumnSpec>& specs);

  // One value for each column, in order: int64_t, uint64_t, StringId or a list.
  template <typename... Values> void add(const Values&... values) {
    assert(sizeof...(values) == columns_.size());
    if (discards_)
      return;
    Column* column = columns_.data();
    (column++->push(values), ...);
    ++rows_;
  }
  size_t rows() const { return rows_; }
  // From now on rows are not kept: for who wants only what the rows are made from.
  void discard_rows() { discards_ = true; }
  bool discards() const { return discards_; }
  Batch take(const StringPool& strings, bool ends_part = false);

 private:
  std::string dataset_;
  std::vector<Column> columns_;
  size_t rows_ = 0;
  bool discards_ = false;
};

} // namespace memtrace
