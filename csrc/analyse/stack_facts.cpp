#include "analyse/stack_facts.h"

#include <cstring>
#include <string>

namespace memtrace {
namespace {

const StackFacts kNoFacts;

// contextlib calls the code of a context manager and of its user; no line of it is anyone's.
bool is_in_between(std::string_view file) {
  return file.ends_with("/contextlib.py");
}

// The Python frame that the engine was entered from; before torch 2.3 one of torch.autograd's own.
bool enters_engine(std::string_view file, std::string_view function) {
  return (function == "_engine_run_backward" && file.ends_with("/torch/autograd/graph.py")) ||
         ((function == "backward" || function == "grad") &&
          file.ends_with("/torch/autograd/__init__.py"));
}

} // namespace

bool inside_torch(std::string_view file) {
  // An installed torch lies in <prefix>/site-packages/torch; Debian's in dist-packages. Code made
  // at run time ("<eval_with_key>.3") is torch's or the interpreter's, never a line to show.
  for (const std::string_view place : {"/site-packages/torch/", "/dist-packages/torch/"})
    if (file.find(place) != std::string_view::npos)
      return true;
  return file.starts_with('<') && !file.starts_with("<string>") && !file.starts_with("<stdin>") &&
         !file.starts_with("<ipython");
}

std::string_view short_file(std::string_view file) {
  size_t slash = file.rfind('/');
  if (slash == std::string_view::npos)
    return file;
  if (const auto base = file.substr(slash + 1);
      (base == "__init__.py" || base == "__main__.py") && slash > 0) {
    const size_t before = file.rfind('/', slash - 1);
    slash = before == std::string_view::npos ? 0 : before;
    return file.substr(file[slash] == '/' ? slash + 1 : slash);
  }
  return file.substr(slash + 1);
}

std::vector<StackFrame> StackTable::frames(uint32_t stack) const {
  const auto text = names_.text().find(TextKind::stack, stack);
  if (!text)
    return {};
  std::vector<StackFrame> frames(text->size() / sizeof(StackFrame));
  if (!frames.empty())
    std::memcpy(frames.data(), text->data(), frames.size() * sizeof(StackFrame));
  return frames;
}

const StackFacts& StackTable::facts(uint32_t stack) {
  if (stack < known_.size() && known_[stack])
    return facts_[stack];
  if (stack == 0 || !names_.text().find(TextKind::stack, stack))
    return kNoFacts;
  if (facts_.size() <= stack) {
    facts_.resize(stack + stack / 2 + 64);
    known_.resize(facts_.size());
  }
  known_[stack] = true;
  return facts_[stack] = work_out(stack);
}

// A notebook's cell is called as the notebook shows it.
StringId StackTable::file_of(const StackFrame& frame) {
  const auto cell = compiled_.cell(names_.text().name(frame.file));
  return cell.empty() ? names_.of(frame.file) : names_.intern(cell);
}

bool StackTable::look_again() {
  const size_t texts = names_.text().texts_of_modules();
  if (texts_seen_ == texts)
    return false;
  texts_seen_ = texts;
  compiled_ = CompiledCode(names_.text());
  known_.assign(known_.size(), false);
  return true;
}

StringId StackTable::source_of(std::string_view file, uint32_t line, std::string_view function) {
  const auto cell = compiled_.cell(file);
  std::string text(cell.empty() ? short_file(file) : cell);
  text += ':';
  text += std::to_string(line);
  text += ' ';
  text += function;
  return names_.intern(text);
}

StringId StackTable::source_of(const StackFrame& frame) {
  return source_of(names_.text().name(frame.file), frame.line, names_.text().name(frame.function));
}

// The innermost frame outside torch; of code that torch.compile generated, the line it comes from.
StringId StackTable::source_of(const std::vector<StackFrame>& frames) {
  for (const StackFrame& frame : frames) {
    const std::string_view file = names_.text().name(frame.file);
    if (inside_torch(file) || is_in_between(file))
      continue;
    if (const auto* origin = compiled_.origin(file, frame.line))
      return source_of(origin->file, origin->line, origin->function);
    if (!compiled_.is_generated(file))
      return source_of(frame);
  }
  return frames.empty() ? StringId::null : source_of(frames.front());
}

StringId StackTable::class_of(uint32_t module) {
  const auto text = names_.text().find(TextKind::module, module);
  ModuleText fields{};
  if (!text || text->size() < sizeof fields)
    return names_.intern("?");
  std::memcpy(&fields, text->data(), sizeof fields);
  return names_.of(fields.class_name);
}

uint32_t StackTable::outermost_module(const std::vector<StackFrame>& frames) {
  uint32_t outermost = 0;
  for (const StackFrame& frame : frames)
    if (frame.module != 0)
      outermost = frame.module; // innermost first
  return outermost;
}

// A part of a model that is called on its own (`model.encoder(x)`, a block that is computed again
// in the backward) is named by its path in the model, as where the whole model is called.
std::string StackTable::path_of(uint32_t module, uint32_t root) const {
  const TextTable& text = names_.text();
  const uint32_t outermost = text.outermost_root(root);
  if (const auto path = text.module_path(module, outermost); !path.empty())
    return std::string(path);
  if (module == root)
    return text.full_path(root, {});
  if (const auto path = text.module_path(module, root); !path.empty())
    return text.full_path(root, path);
  const uint32_t other = text.any_root(module); // not called from where it hangs
  return other != 0 ? text.full_path(other, text.module_path(module, other)) : std::string{};
}

StackTable::Module StackTable::module_of(const std::vector<StackFrame>& frames, size_t innermost) {
  const uint32_t module = frames[innermost].module;
  const StringId class_name = class_of(module);
  const uint32_t root = outermost_module(frames);
  const std::string path = path_of(module, root);
  if (!path.empty())
    return {names_.intern(path), class_name};
  if (module == root) // the root has no path in itself
    return {class_name, class_name};
  std::string classes; // no scan knows this module: its classes from the outermost in
  for (size_t i = frames.size(); i-- > innermost;) {
    if (frames[i].module == 0)
      continue;
    if (!classes.empty())
      classes += '.';
    classes += names_[class_of(frames[i].module)];
  }
  return {names_.intern(classes), class_name};
}

StackFacts StackTable::work_out(uint32_t stack) {
  const auto all = frames(stack);
  StackFacts facts;
  facts.source = source_of(all);
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].module == 0)
      continue;
    const Module module = module_of(all, i);
    facts.module = module.path;
    facts.module_class = module.class_name;
    break;
  }
  look_in_engine(all, facts);
  return facts;
}

void StackTable::look_in_engine(const std::vector<StackFrame>& frames, StackFacts& facts) const {
  bool programs_line = false;
  for (const StackFrame& frame : frames) {
    const std::string_view file = names_.text().name(frame.file);
    if (enters_engine(file, names_.text().name(frame.function)))
      return;
    if (compiled_.origin(file, frame.line) && !programs_line)
      facts.in_engine = InEngine::compiled;
    programs_line = programs_line || !(inside_torch(file) || is_in_between(file));
    const bool checkpoint = programs_line && file.ends_with("/torch/utils/checkpoint.py");
    if (frame.module != 0 || checkpoint)
      facts.in_engine = InEngine::recompute;
    facts.module_in_engine = facts.module_in_engine || frame.module != 0;
  }
}

bool StackTable::add_rows(Table& table, size_t most_rows) {
  if (!ids_read_) {
    ids_ = names_.text().ids(TextKind::stack);
    ids_read_ = true;
  }
  const StringId python = names_.intern("python");
  while (next_row_stack_ < ids_.size() && table.rows() < most_rows) {
    const uint32_t stack = ids_[next_row_stack_++];
    const auto all = frames(stack);
    if (const uint32_t root = outermost_module(all); root != 0 && names_.text().any_root(root) == 0)
      unscanned_roots_.insert(root);
    for (size_t depth = 0; depth < all.size(); ++depth) {
      const StackFrame& frame = all[depth];
      const Module module = frame.module != 0 ? module_of(all, depth) : Module{};
      table.add(int64_t{stack}, static_cast<int64_t>(depth), python, names_.of(frame.function),
                file_of(frame), static_cast<int64_t>(frame.line & 0x7fffffff), module.path,
                module.class_name, depth == 0 ? facts(stack).source : StringId::null);
    }
  }
  return next_row_stack_ < ids_.size();
}

} // namespace memtrace
