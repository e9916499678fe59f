// What a recorded stack says of an allocation: its source line and its module.
//
// Worked out once per distinct stack. The rows of the `stacks` dataset come from here as well.
#pragma once

#include "analyse/columns.h"
#include "analyse/compiled_code.h"
#include "analyse/name_strings.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace memtrace {

// What the frames say that autograd's engine called: those inner to it, or all on a thread of its
// own. Most often there are none.
enum class InEngine : uint8_t {
  nothing,  // no line of the program, or one of a backward that is written in Python
  compiled, // code that torch.compile made of the program's lines
  recompute // forward code, computed again by checkpointing
};

struct StackFacts {
  StringId source = StringId::null;       // innermost line of the program: "model.py:120 forward"
  StringId module = StringId::null;       // "h.3.mlp.c_fc"
  StringId module_class = StringId::null; // "Conv1D"
  InEngine in_engine = InEngine::nothing;
  bool module_in_engine = false; // the module is one that the engine's frames called
};

// True for a file of the installed torch package.
bool inside_torch(std::string_view file);
// "model.py"; with its folder where the name alone says nothing ("layers/__init__.py").
std::string_view short_file(std::string_view file);

class StackTable {
 public:
  explicit StackTable(NameStrings& names)
      : names_(names), compiled_(names.text()), texts_seen_(names.text().texts_of_modules()) {}

  // Facts of a stack id; all null for 0 and for ids that were never written.
  const StackFacts& facts(uint32_t stack);
  // Where texts were read that may say more of known stacks, looks at these again: true.
  bool look_again();
  // Adds the rows of the next stacks, up to about `most_rows`; false when there are no more.
  bool add_rows(Table& table, size_t most_rows);
  // Of the stacks whose rows were added: outermost modules that no scan found alive.
  size_t unscanned_roots() const { return unscanned_roots_.size(); }

 private:
  struct Module {
    StringId path = StringId::null;
    StringId class_name = StringId::null;
  };
  StackFacts work_out(uint32_t stack);
  void look_in_engine(const std::vector<StackFrame>& frames, StackFacts& facts) const;
  std::vector<StackFrame> frames(uint32_t stack) const;
  StringId file_of(const StackFrame& frame);
  StringId source_of(std::string_view file, uint32_t line, std::string_view function);
  StringId source_of(const StackFrame& frame);
  StringId source_of(const std::vector<StackFrame>& frames);
  StringId class_of(uint32_t module);
  static uint32_t outermost_module(const std::vector<StackFrame>& frames);
  // The path of a module under a stack's outermost one, from the whole model on; empty: not known.
  std::string path_of(uint32_t module, uint32_t root) const;
  // The module of frames[innermost], named by its path in the model that the stack's outermost
  // module is, or is a part of.
  Module module_of(const std::vector<StackFrame>& frames, size_t innermost);

  NameStrings& names_;
  CompiledCode compiled_;
  size_t texts_seen_;
  std::vector<StackFacts> facts_;
  std::vector<bool> known_;
  std::vector<uint32_t> ids_;
  bool ids_read_ = false;
  size_t next_row_stack_ = 0;
  std::unordered_set<uint32_t> unscanned_roots_;
};

} // namespace memtrace
