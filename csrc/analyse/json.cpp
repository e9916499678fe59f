#include "analyse/json.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <limits>

namespace memtrace {

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

  bool whole(Json& value) {
    if (!read(value, 0))
      return false;
    skip_space();
    return at_ == end_;
  }

 private:
  static constexpr int kDeepest = 32;

  void skip_space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r'))
      ++at_;
  }

  bool take(char expected) {
    skip_space();
    if (at_ == end_ || *at_ != expected)
      return false;
    ++at_;
    return true;
  }

  bool word(std::string_view expected) {
    if (static_cast<size_t>(end_ - at_) < expected.size() ||
        std::string_view(at_, expected.size()) != expected)
      return false;
    at_ += expected.size();
    return true;
  }

  bool read(Json& value, int depth) {
    skip_space();
    if (at_ == end_ || depth > kDeepest)
      return false;
    switch (*at_) {
    case '{':
      return object(value, depth);
    case '[':
      return array(value, depth);
    case '"':
      value.type_ = Json::Type::string;
      return text(value.text_);
    case 't':
      value.type_ = Json::Type::boolean;
      value.boolean_ = true;
      return word("true");
    case 'f':
      value.type_ = Json::Type::boolean;
      return word("false");
    case 'n':
      return word("null");
    default:
      return number(value);
    }
  }

  bool object(Json& value, int depth) {
    value.type_ = Json::Type::object;
    ++at_;
    if (take('}'))
      return true;
    do {
      skip_space();
      value.keys_.emplace_back();
      value.items_.emplace_back();
      if (at_ == end_ || *at_ != '"' || !text(value.keys_.back()) || !take(':') ||
          !read(value.items_.back(), depth + 1))
        return false;
    } while (take(','));
    return take('}');
  }

  bool array(Json& value, int depth) {
    value.type_ = Json::Type::array;
    ++at_;
    if (take(']'))
      return true;
    do {
      value.items_.emplace_back();
      if (!read(value.items_.back(), depth + 1))
        return false;
    } while (take(','));
    return take(']');
  }

  bool number(Json& value) {
    value.type_ = Json::Type::number;
    const auto [after, error] = std::from_chars(at_, end_, value.number_);
    if (error != std::errc() || after == at_)
      return false;
    value.negative_ = *at_ == '-';
    const char* digits = at_ + (value.negative_ ? 1 : 0);
    const auto [whole_end, whole_error] = std::from_chars(digits, after, value.magnitude_);
    value.whole_ = whole_error == std::errc() && whole_end == after;
    at_ = after;
    return true;
  }

  bool text(std::string& out) {
    for (++at_; at_ != end_; ++at_) {
      if (*at_ == '"') {
        ++at_;
        return true;
      }
      if (*at_ != '\\') {
        out.push_back(*at_);
        continue;
      }
      if (++at_ == end_)
        return false;
      switch (*at_) {
      case 'n':
        out.push_back('\n');
        break;
      case 't':
        out.push_back('\t');
        break;
      case 'r':
        out.push_back('\r');
        break;
      case 'b':
        out.push_back('\b');
        break;
      case 'f':
        out.push_back('\f');
        break;
      case 'u':
        if (!escaped(out))
          return false;
        break;
      default:
        out.push_back(*at_);
      }
    }
    return false;
  }

  // at_ stands on the 'u'; leaves it on the last digit.
  bool four_digits(uint32_t& unit) {
    if (end_ - at_ < 5)
      return false;
    const auto [after, error] = std::from_chars(at_ + 1, at_ + 5, unit, 16);
    if (error != std::errc() || after != at_ + 5)
      return false;
    at_ += 4;
    return true;
  }

  bool escaped(std::string& out) {
    uint32_t code = 0;
    if (!four_digits(code))
      return false;
    uint32_t low = 0;
    if (code >= 0xd800 && code < 0xdc00 && end_ - at_ > 6 && at_[1] == '\\' && at_[2] == 'u') {
      at_ += 2;
      if (!four_digits(low))
        return false;
      code = 0x10000 + ((code - 0xd800) << 10) + ((low - 0xdc00) & 0x3ff);
    }
    const auto byte = [&](uint32_t bits) { out.push_back(static_cast<char>(bits)); };
    if (code < 0x80) {
      byte(code);
    } else if (code < 0x800) {
      byte(0xc0 | code >> 6);
      byte(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      byte(0xe0 | code >> 12);
      byte(0x80 | (code >> 6 & 0x3f));
      byte(0x80 | (code & 0x3f));
    } else {
      byte(0xf0 | code >> 18);
      byte(0x80 | (code >> 12 & 0x3f));
      byte(0x80 | (code >> 6 & 0x3f));
      byte(0x80 | (code & 0x3f));
    }
    return true;
  }

  const char* at_;
  const char* end_;
};

std::optional<Json> Json::parse(std::string_view text) {
  Json value;
  if (!JsonReader(text).whole(value))
    return std::nullopt;
  return value;
}

bool Json::boolean(bool fallback) const {
  return type_ == Type::boolean ? boolean_ : fallback;
}

double Json::number(double fallback) const {
  return type_ == Type::number ? number_ : fallback;
}

int64_t Json::integer(int64_t fallback) const {
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (type_ != Type::number || !whole_ || magnitude_ > kMost)
    return fallback;
  const auto value = static_cast<int64_t>(magnitude_);
  return negative_ ? -value : value;
}

uint64_t Json::address() const {
  return type_ == Type::number && whole_ && !negative_ ? magnitude_ : 0;
}

const Json& Json::operator[](std::string_view key) const {
  static const Json nothing;
  for (size_t i = 0; i < keys_.size(); ++i)
    if (keys_[i] == key)
      return items_[i];
  return nothing;
}

void append_quoted(std::string& out, std::string_view text) {
  out += '"';
  for (const char letter : text) {
    if (static_cast<unsigned char>(letter) < ' ') {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(letter));
      out += escape.data();
      continue;
    }
    if (letter == '"' || letter == '\\')
      out += '\\';
    out += letter;
  }
  out += '"';
}

std::string Json::dump() const {
  std::string out;
  switch (type_) {
  case Type::string:
    append_quoted(out, text_);
    return out;
  case Type::number:
    return whole_ ? std::to_string(integer()) : "null";
  case Type::array:
  case Type::object:
    break;
  default:
    return "null";
  }
  const bool object = type_ == Type::object;
  out += object ? '{' : '[';
  for (size_t i = 0; i < items_.size(); ++i) {
    if (i > 0)
      out += ", ";
    if (object) {
      append_quoted(out, keys_[i]);
      out += ": ";
    }
    out += items_[i].dump();
  }
  return out += object ? '}' : ']';
}

} // namespace memtrace
