#include "store/spool_reader.h"

#include "store/spool_builder.h"
#include "store/spool_error.h"

#include <doctest/doctest.h>

using namespace memtrace;
using memtrace::test::event_record;
using memtrace::test::SpoolBuilder;

namespace {

uint64_t damage_of(const SpoolReader& reader, std::string_view kind) {
  for (const auto& [name, count] : reader.damage())
    if (name == kind)
      return count;
  FAIL("no such kind of damage");
  return 0;
}

uint64_t all_damage(const SpoolReader& reader) {
  uint64_t sum = 0;
  for (const auto& [name, count] : reader.damage())
    sum += count;
  return sum;
}

std::string refusal(const std::string& directory) {
  try {
    SpoolReader reader(directory);
  } catch (const SpoolError& error) {
    return error.what();
  }
  return "";
}

} // namespace

TEST_CASE("chunks of a log are chained by index, wherever they lie") {
  SpoolBuilder spool;
  const auto record = [](uint64_t ticks) { return event_record(ticks, Action::alloc); };
  spool.records = SpoolBuilder::chunk(1, 1, {record(5), record(6)}) +
                  SpoolBuilder::chunk(2, 0, {record(3)}) +
                  std::string(spool.control.chunk_bytes, '\0') +
                  SpoolBuilder::chunk(1, 0, {record(1), record(2), record(3), record(4)});
  const SpoolReader reader(spool.write());
  CHECK(reader.records() == 7);
  REQUIRE(reader.logs().size() == 2);
  const LogRecords& log = reader.logs()[0];
  REQUIRE(log.size() == 2);
  CHECK(log[0].records[0].event.ticks == 1);
  CHECK(log[1].records[1].event.ticks == 6);
  CHECK(all_damage(reader) == 0);
}

TEST_CASE("of a chunk in both files the window's copy is the whole one") {
  SpoolBuilder spool;
  const Record one = event_record(1, Action::alloc), two = event_record(2, Action::alloc);
  spool.records = SpoolBuilder::chunk(1, 0, {one});
  spool.windows = SpoolBuilder::chunk(1, 0, {one, two});
  const SpoolReader reader(spool.write());
  CHECK(reader.records() == 2);
  CHECK(all_damage(reader) == 0);
}

TEST_CASE("of a window that was copied before it was full the appended copy is the whole one") {
  SpoolBuilder spool;
  const auto record = [](uint64_t ticks) { return event_record(ticks, Action::alloc); };
  spool.records = SpoolBuilder::chunk(1, 0, {record(1), record(2), record(3)});
  spool.windows =
      SpoolBuilder::chunk(1, 0, {record(1)}) + SpoolBuilder::chunk(1, 1, {record(4), record(5)});
  const SpoolReader reader(spool.write());
  CHECK(reader.records() == 5);
  CHECK(all_damage(reader) == 0);
}

TEST_CASE("a file cut within a record keeps the records before it") {
  SpoolBuilder spool;
  const Record record = event_record(1, Action::alloc);
  spool.records = SpoolBuilder::chunk(1, 0, {record, record}).substr(0, 2 * kRecordBytes + 20);
  const SpoolReader reader(spool.write());
  CHECK(reader.records() == 1);
  CHECK(damage_of(reader, "records_cut") == 1);
}

TEST_CASE("a chunk that is not there is counted") {
  SpoolBuilder spool;
  spool.records = SpoolBuilder::chunk(1, 2, {event_record(1, Action::alloc)});
  const SpoolReader reader(spool.write());
  CHECK(reader.records() == 1);
  CHECK(damage_of(reader, "missing_chunks") == 2);
}

TEST_CASE("what is not ours is refused with one line") {
  SpoolBuilder spool;
  SUBCASE("newer version: both are named") {
    spool.control.version = kSpoolVersion + 41;
    const std::string text = refusal(spool.write());
    CHECK(text.find(std::to_string(kSpoolVersion + 41)) != std::string::npos);
    CHECK(text.find("reads up to " + std::to_string(kSpoolVersion)) != std::string::npos);
  }
  SUBCASE("other magic") {
    spool.control.magic = 7;
    CHECK(refusal(spool.write()).find("not a memtrace recording") != std::string::npos);
  }
  SUBCASE("never begun") {
    spool.write();
    spool.put("control.bin", std::string(4096, '\0'));
    CHECK(refusal(spool.directory.path()).find("before its recording began") != std::string::npos);
  }
  SUBCASE("cut control") {
    spool.write();
    spool.put("control.bin",
              std::string(reinterpret_cast<const char*>(&spool.control), sizeof(Control) - 1));
    CHECK(refusal(spool.directory.path()).find("cut short") != std::string::npos);
  }
  SUBCASE("impossible chunks") {
    for (const uint32_t bytes : {0U, 64U, 100U, 1U << 31}) {
      spool.control.chunk_bytes = bytes;
      CHECK(refusal(spool.write()).find("damaged") != std::string::npos);
    }
  }
  SUBCASE("no directory") {
    CHECK(refusal("/nonexistent").find("cannot read") == 0);
  }
}

TEST_CASE("texts resolve; unknown ids read ? and are counted") {
  SpoolBuilder spool;
  spool.text_frame(TextKind::name, 2, "aten::mm");
  spool.text_frame(TextKind::name, 1, "later id first");
  spool.text_frame(TextKind::process, 0, "{}");
  const SpoolReader reader(spool.write());
  CHECK(reader.text().name(2) == "aten::mm");
  CHECK(reader.text().name(0) == "");
  CHECK(damage_of(reader, "unknown_text_ids") == 0);
  CHECK(reader.text().name(3) == "?");
  CHECK(damage_of(reader, "unknown_text_ids") == 1);
  CHECK(reader.text().process_notes().size() == 1);
}

TEST_CASE("texts after a damaged frame are found again") {
  SpoolBuilder spool;
  spool.text_frame(TextKind::name, 1, "first");
  const size_t torn = spool.text.size();
  spool.text_frame(TextKind::name, 2, "torn");
  spool.text_frame(TextKind::name, 3, "third");
  spool.text[torn + 6] ^= 0x55; // its check
  const SpoolReader reader(spool.write());
  CHECK(reader.text().name(1) == "first");
  CHECK(reader.text().name(2) == "?");
  CHECK(reader.text().name(3) == "third");
  CHECK(damage_of(reader, "text_bytes_cut") > 0);
}

TEST_CASE("a text id beyond reason does not make the reader grow") {
  SpoolBuilder spool;
  spool.text_frame(TextKind::name, 4'000'000'000U, "x");
  const SpoolReader reader(spool.write());
  CHECK(reader.text().name(4'000'000'000U) == "?");
}

TEST_CASE("a module's path is the one in the stack's own root") {
  SpoolBuilder spool;
  const auto path = [&](uint32_t module, uint32_t root, const std::string& text) {
    spool.text_frame(TextKind::module_path, module,
                     std::string(reinterpret_cast<const char*>(&root), sizeof root) + text);
  };
  path(5, 1, "transformer.h.0");
  path(5, 2, "h.0");
  const SpoolReader reader(spool.write());
  CHECK(reader.text().module_path(5, 2) == "h.0");
  CHECK(reader.text().module_path(5, 1) == "transformer.h.0");
  CHECK(reader.text().module_path(5, 9) == "");
  CHECK(reader.text().module_path(6, 1) == "");
}

TEST_CASE("a root inside another root is named from the outermost on") {
  SpoolBuilder spool;
  const auto path = [&](uint32_t module, uint32_t root, const std::string& text) {
    spool.text_frame(TextKind::module_path, module,
                     std::string(reinterpret_cast<const char*>(&root), sizeof root) + text);
  };
  path(3, 3, ""); // a part, called first
  path(4, 3, "l");
  path(2, 2, "");
  path(3, 2, "enc");
  path(4, 2, "enc.l");
  path(1, 1, ""); // a wrapper around it all, which knows only its own child
  path(2, 1, "module");
  path(8, 8, ""); // two that contain each other
  path(9, 8, "b");
  path(9, 9, "");
  path(8, 9, "a");
  const SpoolReader reader(spool.write());
  const TextTable& text = reader.text();
  CHECK(text.outermost_root(3) == 1);
  CHECK(text.outermost_root(1) == 1);
  CHECK(text.full_path(3, "l.weight") == "module.enc.l.weight");
  CHECK(text.full_path(1, "module.x") == "module.x");
  CHECK(text.outermost_root(8) == text.outermost_root(9));
  CHECK(text.full_path(8, "w") == "w");
  CHECK(text.full_path(9, "w") == "b.w");
  CHECK(text.outermost_root(77) == 77);
  CHECK(text.any_root(4) == 3);
  CHECK(text.any_root(9) == 9);
  CHECK(text.any_root(77) == 0);
}
