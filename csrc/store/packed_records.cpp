#include "store/packed_records.h"

#include <array>
#include <cstddef>
#include <cstring>

namespace memtrace {
namespace {

// What all kinds of records have in common: four large numbers, then small ones, of which the last
// two are the tail.
struct Fields {
  uint64_t large[4];
  uint32_t small[8];
};
static_assert(sizeof(Fields) == sizeof(Record));

constexpr size_t kLarge = 4, kFields = 12;
constexpr size_t kSlots = 64; // actions are below it; others share a slot
constexpr uint8_t kSameMask = 0x40;
constexpr size_t kMostBytes = 10; // of a number

// The last record of each action, which the next one is told by.
struct Predictor {
  struct Slot {
    Fields fields{};
    uint16_t mask = 0; // of the fields that differed
  };
  std::array<Slot, kSlots> slots;
  uint64_t ticks = 0;

  Slot& slot(size_t number) {
    Slot& slot = slots[number % kSlots];
    slot.fields.large[0] = ticks;
    return slot;
  }
  void keep(Slot& slot, const Fields& fields, uint16_t mask) {
    slot = {fields, mask};
    ticks = fields.large[0];
  }
};

uint64_t field(const Fields& fields, size_t at) {
  return at < kLarge ? fields.large[at] : fields.small[at - kLarge];
}

// A difference as a number that is small where it is near zero, on either side.
uint64_t folded(int64_t difference) {
  return (static_cast<uint64_t>(difference) << 1) ^ static_cast<uint64_t>(difference >> 63);
}

int64_t unfolded(uint64_t number) {
  return static_cast<int64_t>(number >> 1) ^ -static_cast<int64_t>(number & 1);
}

uint8_t* put(uint8_t* at, uint64_t number) {
  for (; number >= 0x80; number >>= 7)
    *at++ = static_cast<uint8_t>(number) | 0x80;
  *at++ = static_cast<uint8_t>(number);
  return at;
}

// Null: the bytes end within the number.
const uint8_t* get(const uint8_t* at, const uint8_t* end, uint64_t& number) {
  number = 0;
  for (unsigned shift = 0; at != end && shift < 64; shift += 7) {
    const uint8_t byte = *at++;
    number |= uint64_t{byte & 0x7fU} << shift;
    if (byte < 0x80)
      return at;
  }
  return nullptr;
}

} // namespace

void pack(std::span<const Record> records, std::vector<uint8_t>& packed) {
  Predictor predictor;
  std::array<uint8_t, 3 + kFields * kMostBytes> bytes{};
  for (const Record& record : records) {
    Fields fields{};
    std::memcpy(&fields, &record, sizeof fields);
    const auto number = static_cast<size_t>(record.event.tail.action) % kSlots;
    Predictor::Slot& slot = predictor.slot(number);
    uint16_t mask = 0;
    for (size_t i = 0; i < kFields; ++i)
      if (field(fields, i) != field(slot.fields, i))
        mask |= static_cast<uint16_t>(1U << i);
    uint8_t* at = bytes.data();
    *at++ = static_cast<uint8_t>(number | (mask == slot.mask ? kSameMask : 0));
    if (mask != slot.mask) {
      *at++ = static_cast<uint8_t>(mask);
      *at++ = static_cast<uint8_t>(mask >> 8);
    }
    for (size_t i = 0; i < kFields; ++i)
      if (mask >> i & 1)
        at = put(at, folded(static_cast<int64_t>(field(fields, i) - field(slot.fields, i))));
    predictor.keep(slot, fields, mask);
    packed.insert(packed.end(), bytes.data(), at);
  }
}

bool unpack(std::span<const uint8_t> packed, std::span<Record> records) {
  Predictor predictor;
  const uint8_t* at = packed.data();
  const uint8_t* const end = at + packed.size();
  for (Record& record : records) {
    if (at == end)
      return false;
    const uint8_t head = *at++;
    Predictor::Slot& slot = predictor.slot(head % kSlots);
    uint16_t mask = slot.mask;
    if ((head & kSameMask) == 0) {
      if (end - at < 2)
        return false;
      mask = static_cast<uint16_t>(at[0] | at[1] << 8);
      at += 2;
    }
    Fields fields = slot.fields;
    for (size_t i = 0; i < kFields; ++i) {
      if ((mask >> i & 1) == 0)
        continue;
      uint64_t number = 0;
      at = get(at, end, number);
      if (!at)
        return false;
      const uint64_t value = field(fields, i) + static_cast<uint64_t>(unfolded(number));
      if (i < kLarge)
        fields.large[i] = value;
      else
        fields.small[i - kLarge] = static_cast<uint32_t>(value);
    }
    predictor.keep(slot, fields, mask);
    std::memcpy(&record, &fields, sizeof record);
  }
  return at == end;
}

} // namespace memtrace
