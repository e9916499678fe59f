// Builds the files of a spool in memory and writes them: for tests of the reader and what follows.
#pragma once

#include <doctest/doctest.h>

#include "record/event.h"
#include "record/spool.h"
#include "record/spool_files.h"
#include "store/record_merge.h"

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace memtrace::test {

inline Record event_record(uint64_t ticks, Action action, DeviceCode device = kCpu,
                           uint32_t order = 0, uint64_t address = 0x1000) {
  Record record{};
  record.event.ticks = ticks;
  record.event.address = address;
  record.event.size_bytes = 512;
  record.event.order = order;
  record.event.tail = {1, 0, device, action};
  return record;
}

class SpoolBuilder {
 public:
  // Small chunks, so that few records fill one.
  static constexpr uint32_t kChunkRecords = 4;

  SpoolBuilder() {
    control.magic = kSpoolMagic;
    control.version = kSpoolVersion;
    control.chunk_bytes = (kChunkRecords + 1) * kRecordBytes;
    control.pid = 1;
    control.clock = Clock::monotonic_ns;
    control.complete = 1;
  }

  static std::string chunk(uint32_t log, uint64_t index, const std::vector<Record>& records) {
    std::string bytes((kChunkRecords + 1) * kRecordBytes, '\0');
    ChunkHeader header{};
    header.magic = kChunkMagic;
    header.log = log;
    header.index = index;
    std::memcpy(bytes.data(), &header, sizeof header);
    for (size_t i = 0; i < records.size(); ++i)
      std::memcpy(bytes.data() + (i + 1) * kRecordBytes, &records[i], kRecordBytes);
    return bytes;
  }

  void text_frame(TextKind kind, uint32_t id, const std::string& payload) {
    const TextFrame frame{static_cast<uint32_t>(payload.size()), kind, kTextCheck, id};
    text.append(reinterpret_cast<const char*>(&frame), sizeof frame);
    text += payload;
  }

  std::string write() const {
    put("control.bin", std::string(reinterpret_cast<const char*>(&control), sizeof control));
    put("records.bin", records);
    put("windows.bin", windows);
    put("text.log", text);
    return directory.path();
  }

  void put(const std::string& name, const std::string& bytes) const {
    std::ofstream(directory.path() + "/" + name, std::ios::binary) << bytes;
  }

  Control control{};
  std::string records, windows, text;
  TemporaryDirectory directory;
};

// The numbers (addresses) of all records of a sound spool, in their order.
inline std::vector<uint64_t> read(const std::string& directory) {
  const SpoolReader reader(directory);
  for (const auto& [kind, count] : reader.damage())
    CHECK_MESSAGE(count == 0, kind);
  RecordMerge merge(reader);
  std::vector<uint64_t> numbers;
  while (const Record* record = merge.next())
    numbers.push_back(record->event.address);
  return numbers;
}

} // namespace memtrace::test
