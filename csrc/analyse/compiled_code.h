// Where code comes from that was made at run time, as the watched process notes it.
//
// Of what torch.compile generated: line of a generated file -> line of the program. Inductor keeps
// for each generated file which line begins the work of which node of the graph, and the node's
// Python stack when the graph was captured (compiled.py). Of a notebook's cell: what the reader of
// the notebook calls it (cells.py).
#pragma once

#include "store/text_table.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

namespace memtrace {

class CompiledCode {
 public:
  struct Origin {
    std::string file, function;
    uint32_t line = 0;
  };

  explicit CompiledCode(const TextTable& text);

  // The program's line that a line of a generated file does the work of; null: not known.
  const Origin* origin(std::string_view file, uint32_t line) const;
  // Whether a file was generated, as far as its name or a note tells.
  bool is_generated(std::string_view file) const;
  // What the file of a notebook's cell is called: "In[3]"; empty for any other file.
  std::string_view cell(std::string_view file) const;

 private:
  // By the line from which on it holds, up to the next. An empty file: of no line of the program.
  using Lines = std::map<uint32_t, Origin>;

  std::unordered_map<std::string, Lines> files_;
  std::unordered_map<std::string, std::string> cells_;
};

} // namespace memtrace
