// The simplest possible reader of a spool, for tests of the recorder: whole files, no mercy.
#pragma once

#include "record/event.h"
#include "record/spool.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

namespace memtrace::test {

class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::string& root = std::filesystem::temp_directory_path()) {
    std::string name = root + "/memtrace-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_; }

 private:
  std::string path_;
};

inline std::string file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline Control read_control(const std::string& directory) {
  Control control{};
  const std::string bytes = file_bytes(directory + "/control.bin");
  std::memcpy(&control, bytes.data(), sizeof control);
  return control;
}

// (log, index) -> records; the window's copy wins.
inline std::map<std::pair<uint32_t, uint64_t>, std::vector<Record>>
read_chunks(const std::string& directory) {
  std::map<std::pair<uint32_t, uint64_t>, std::vector<Record>> chunks;
  for (const char* file : {"/records.bin", "/windows.bin"}) {
    const std::string bytes = file_bytes(directory + file);
    for (size_t at = 0; at + kChunkBytes <= bytes.size(); at += kChunkBytes) {
      ChunkHeader header;
      std::memcpy(&header, bytes.data() + at, sizeof header);
      if (header.magic != kChunkMagic)
        continue;
      std::vector<Record> records;
      for (size_t i = 1; i <= kRecordsPerChunk; ++i) {
        Record record;
        std::memcpy(static_cast<void*>(&record), bytes.data() + at + i * kRecordBytes,
                    sizeof record);
        if (record.event.tail.action == Action::none)
          break;
        records.push_back(record);
      }
      chunks[{header.log, header.index}] = std::move(records);
    }
  }
  return chunks;
}

inline std::vector<Record> read_log(const std::string& directory, uint32_t log) {
  std::vector<Record> all;
  for (const auto& [key, records] : read_chunks(directory))
    if (key.first == log)
      all.insert(all.end(), records.begin(), records.end());
  return all;
}

inline std::map<uint32_t, std::string> read_texts(const std::string& directory, TextKind kind) {
  std::map<uint32_t, std::string> texts;
  const std::string bytes = file_bytes(directory + "/text.log");
  for (size_t at = 0; at + sizeof(TextFrame) <= bytes.size();) {
    TextFrame frame;
    std::memcpy(&frame, bytes.data() + at, sizeof frame);
    if (frame.check != kTextCheck)
      break;
    if (frame.kind == kind)
      texts[frame.id] = bytes.substr(at + sizeof frame, frame.length);
    at += sizeof frame + frame.length;
  }
  return texts;
}

} // namespace memtrace::test
