// JSON as the notes of a spool carry it: read only, any input, no exceptions.
//
// Numbers keep both readings: integers to 64 bits exactly, everything as a double.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace memtrace {

class Json {
 public:
  enum class Type : uint8_t { null, boolean, number, string, array, object };

  // Nothing when the text is not one whole JSON value (or nests deeper than 32).
  static std::optional<Json> parse(std::string_view text);

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::null; }
  // What is asked for when it is there and of that type, else the fallback.
  bool boolean(bool fallback = false) const;
  double number(double fallback = 0) const;
  int64_t integer(int64_t fallback = 0) const;
  uint64_t address() const; // an integer of 64 bits without sign; 0 when it is none
  std::string_view string() const { return text_; }
  const std::vector<Json>& array() const { return items_; }
  // The member, or a null.
  const Json& operator[](std::string_view key) const;
  // As json.dumps would write it; of integers, texts, arrays and objects, all else is null.
  std::string dump() const;

 private:
  friend class JsonReader;
  Type type_ = Type::null;
  bool boolean_ = false;
  double number_ = 0;
  uint64_t magnitude_ = 0;
  bool whole_ = false, negative_ = false;
  std::string text_;
  std::vector<Json> items_;       // of an array, or the values of an object
  std::vector<std::string> keys_; // of an object
};

// The text as a JSON string.
void append_quoted(std::string& out, std::string_view text);

} // namespace memtrace
