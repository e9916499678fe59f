// The small pieces that the conversion is made of.
#include "analyse/address_map.h"
#include "analyse/columns.h"
#include "analyse/compiled_code.h"
#include "analyse/json.h"
#include "analyse/stack_facts.h"
#include "analyse/timeline.h"
#include "store/spool_builder.h"

#include <algorithm>
#include <doctest/doctest.h>
#include <random>
#include <unordered_map>

using namespace memtrace;

TEST_CASE("AddressMap holds what a map would hold") {
  std::mt19937_64 random(7);
  AddressMap<uint32_t> map;
  std::unordered_map<uint64_t, uint32_t> truth;
  for (uint32_t i = 0; i < 200'000; ++i) {
    const uint64_t address = 512 * (1 + random() % 3000);
    if (random() % 2) {
      map.insert(address, i);
      truth[address] = i;
    } else {
      map.erase(address);
      truth.erase(address);
    }
  }
  CHECK(map.size() == truth.size());
  for (uint64_t address = 512; address <= 512 * 3000; address += 512) {
    const auto found = truth.find(address);
    const uint32_t* value = map.find(address);
    CHECK((value != nullptr) == (found != truth.end()));
    if (value)
      CHECK(*value == found->second);
  }
}

TEST_CASE("JSON is read") {
  const auto json = Json::parse(
      R"( {"a": [1, -2, 3.5e2], "b": {"c": "x\n\u00e9\ud83d\ude00"}, "d": null, "e": true,)"
      R"( "big": 18446744073709551615} )");
  REQUIRE(json);
  CHECK((*json)["a"].array()[1].integer() == -2);
  CHECK((*json)["a"].array()[2].number() == 350);
  CHECK((*json)["a"].array()[2].integer(9) == 9);
  CHECK((*json)["b"]["c"].string() == "x\n\u00e9\U0001F600");
  CHECK((*json)["d"].is_null());
  CHECK((*json)["e"].boolean());
  CHECK((*json)["big"].address() == UINT64_MAX);
  CHECK((*json)["none"]["of this"].is_null());
}

TEST_CASE("JSON is written as it was read") {
  for (const char* text :
       {R"({"input_ids": [2, 128], "a\"\\\u0001": [], "x": {"y": -3}})", "null", R"(["\u00e9"])"}) {
    const std::string dumped = Json::parse(text)->dump();
    CHECK(Json::parse(dumped)->dump() == dumped);
  }
  CHECK(Json::parse(R"({"a":[1,2],"b\"":[ ]})")->dump() == R"({"a": [1, 2], "b\"": []})");
}

TEST_CASE("what is not JSON is nothing") {
  for (const char* text : {"", "{", "[1,]", "{\"a\":}", "\"open", "tru", "1 2", "{\"a\" 1}",
                           "\"\\u12\"", "nan?", "[", "-"})
    CHECK_FALSE(Json::parse(text));
  CHECK_FALSE(Json::parse(std::string(10'000, '[')));
}

TEST_CASE("a batch carries the strings that it uses, and bitmaps where something is missing") {
  StringPool strings;
  Table table("t", {{"n", ColumnType::int64}, {"s", ColumnType::string}});
  const StringId unused = strings.intern("unused"), used = strings.intern("used");
  CHECK(unused != used);
  table.add(int64_t{7}, used);
  table.add(kNull, StringId::null);
  table.add(int64_t{9}, used);
  Batch batch = table.take(strings);
  CHECK(batch.rows == 3);
  CHECK(batch.columns[0].validity == std::vector<uint8_t>{0b101});
  CHECK(batch.columns[1].dictionary == std::vector<std::string>{"used", ""});
  CHECK(batch.columns[1].codes == std::vector<int32_t>{0, 1, 0});
  CHECK(batch.columns[1].validity == std::vector<uint8_t>{0b101});
  table.add(int64_t{1}, unused);
  batch = table.take(strings);
  CHECK(batch.columns[0].validity.empty());
  CHECK(batch.columns[1].dictionary == std::vector<std::string>{"unused"});
}

TEST_CASE("a passing string stays until no row names it, and its place is used again") {
  StringPool strings;
  const StringId kept = strings.intern("kept");
  const StringId passing = strings.intern_passing("17"), both = strings.intern_passing("18");
  CHECK(strings.intern_passing("17") == passing);
  CHECK(strings.intern_passing("kept") == kept);
  CHECK(strings.intern("18") == both);
  strings.forget_passing();
  CHECK(strings[kept] == "kept");
  CHECK(strings[both] == "18");
  CHECK(strings.intern_passing("19") == passing);
  CHECK(strings[passing] == "19");
  strings.forget_passing();
  CHECK(strings.intern("17") == passing);
  CHECK(strings.intern("18") == both);
}

TEST_CASE("a timeline stays bounded and keeps the extremes") {
  StringPool strings;
  Table table("timeline", {{"device", ColumnType::string},
                           {"metric", ColumnType::string},
                           {"key", ColumnType::string},
                           {"bin_start_ns", ColumnType::int64},
                           {"min_bytes", ColumnType::int64},
                           {"max_bytes", ColumnType::int64},
                           {"last_bytes", ColumnType::int64}});
  Timeline timeline;
  constexpr int64_t kEvents = 2'000'000;
  for (int64_t i = 0; i < kEvents; ++i)
    timeline.add(i * 1000, {i == 12'345 ? 1'000'000 : i % 100, 5, 5});
  const StringId name = strings.intern("x");
  timeline.add_rows(table, name, {name, name, name}, 1);
  CHECK(table.rows() <= 100'000 / 3);
  CHECK(table.rows() >= 4096);
  const Batch batch = table.take(strings);
  const auto& max = batch.columns[5].words;
  CHECK(std::count(max.begin(), max.end(), 1'000'000) == 1);
  const auto& start = batch.columns[3].words;
  CHECK(std::is_sorted(start.begin(), start.end()));
  CHECK(batch.columns[6].words.back() == (kEvents - 1) % 100);
}

TEST_CASE("a frame of the torch package is told by its place") {
  CHECK(inside_torch("/v/lib/python3.11/site-packages/torch/nn/modules/module.py"));
  CHECK(inside_torch("/usr/lib/python3/dist-packages/torch/_tensor.py"));
  CHECK(inside_torch("<eval_with_key>.3"));
  CHECK_FALSE(inside_torch("/home/u/torch/model.py"));
  CHECK_FALSE(inside_torch("/v/site-packages/torchvision/models/resnet.py"));
  CHECK_FALSE(inside_torch("<stdin>"));
  CHECK(short_file("/home/u/model.py") == "model.py");
  CHECK(short_file("/home/u/layers/__init__.py") == "layers/__init__.py");
  CHECK(short_file("__init__.py") == "__init__.py");
  CHECK(short_file("<stdin>") == "<stdin>");
}

TEST_CASE("generated code is led back to the program's lines") {
  test::SpoolBuilder spool;
  spool.text_frame(TextKind::source_map, 0,
                   R"({"file": "/c/gen.py", "lines": [)"
                   R"([10, [["/x/site-packages/torch/nn/linear.py", 5, "forward"],)"
                   R"( ["/m/model.py", 7, "run"], ["/m/main.py", 1, "main"]]],)"
                   R"( [20, []], [30, [["/m/model.py", 9, "run"]]], ["bad"], 3]})");
  spool.text_frame(TextKind::source_map, 0, "no JSON");
  const TextTable text(spool.write() + "/text.log");
  const CompiledCode code(text);
  CHECK(code.origin("/c/gen.py", 9) == nullptr);
  REQUIRE(code.origin("/c/gen.py", 19));
  CHECK(code.origin("/c/gen.py", 19)->file == "/m/model.py");
  CHECK(code.origin("/c/gen.py", 19)->line == 7);
  CHECK(code.origin("/c/gen.py", 25) == nullptr); // of no line of the program
  CHECK(code.origin("/c/gen.py", 1000)->line == 9);
  CHECK(code.origin("/c/other.py", 10) == nullptr);
  CHECK(code.is_generated("/c/gen.py"));
  CHECK(code.is_generated("/tmp/torchinductor_me/ab/cab.py"));
  CHECK_FALSE(code.is_generated("/m/model.py"));
}
