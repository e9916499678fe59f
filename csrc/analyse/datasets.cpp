#include "analyse/datasets.h"

namespace memtrace {
namespace {

using enum ColumnType;

constexpr ColumnSpec id(const char* name) {
  return {name, int64};
}
constexpr ColumnSpec number(const char* name) {
  return {name, int64};
}
constexpr ColumnSpec text(const char* name) {
  return {name, string};
}
constexpr ColumnSpec handle(const char* name) {
  return {name, uint64};
}
constexpr ColumnSpec flag(const char* name) {
  return {name, boolean};
}

} // namespace

Datasets::Datasets()
    : events("events",
             {id("seq"), number("time_ns"), text("device"), text("action"), id("allocation_id"),
              id("segment_id"), handle("address"), number("size_bytes"), number("block_bytes"),
              id("thread_id"), handle("stream"), text("pool"), id("operator_call_id"),
              id("stack_id"), number("allocated_bytes"), number("active_bytes"),
              number("reserved_bytes"), number("device_free_bytes")}),
      allocations("allocations", {id("allocation_id"),
                                  text("device"),
                                  text("memory"),
                                  text("origin"),
                                  handle("address"),
                                  number("size_bytes"),
                                  number("block_bytes"),
                                  number("resident_bytes"),
                                  id("alloc_seq"),
                                  id("free_seq"),
                                  id("release_seq"),
                                  number("alloc_time_ns"),
                                  number("free_time_ns"),
                                  number("release_time_ns"),
                                  id("thread_id"),
                                  id("free_thread_id"),
                                  handle("stream"),
                                  text("pool"),
                                  id("segment_id"),
                                  text("operator"),
                                  text("top_operator"),
                                  text("forward_operator"),
                                  id("operator_call_id"),
                                  id("forward_call_id"),
                                  text("module"),
                                  text("module_class"),
                                  text("source"),
                                  id("stack_id"),
                                  text("phase"),
                                  text("stage"),
                                  id("step"),
                                  text("category"),
                                  text("category_by"),
                                  text("label")}),
      names("names", {id("allocation_id"),
                      text("name"),
                      text("kind"),
                      number("offset_bytes"),
                      {"shape", int64_list},
                      text("dtype"),
                      id("since_seq")}),
      segments("segments",
               {id("segment_id"), text("device"), handle("address"), number("size_bytes"),
                id("alloc_seq"), id("free_seq"), number("alloc_time_ns"), number("free_time_ns"),
                handle("stream"), text("pool"), flag("small"), flag("expandable")}),
      operators("operators",
                {id("call_id"), id("parent_call_id"), text("name"), text("scope"), id("thread_id"),
                 number("start_time_ns"), number("end_time_ns"), id("start_seq"),
                 id("sequence_number"), id("forward_call_id"), text("module"), id("stack_id"),
                 number("allocated_bytes"), number("freed_bytes")}),
      stacks("stacks", {id("stack_id"),
                        {"depth", int32},
                        text("kind"),
                        text("function"),
                        text("file"),
                        {"line", int32},
                        text("module"),
                        text("module_class"),
                        text("source")}),
      stages("stages",
             {id("stage_id"), id("parent_id"), text("name"), text("kind"), id("thread_id"),
              id("start_seq"), id("end_seq"), number("start_time_ns"), number("end_time_ns")}),
      steps("steps", {id("step"), text("kind"), id("stage_id"), text("root_module"),
                      id("thread_id"), id("start_seq"), id("end_seq"), number("start_time_ns"),
                      number("end_time_ns"), number("batch_size"), text("input_shapes"),
                      flag("grad_enabled"), text("error"), text("name"), id("parent_step")}),
      samples("samples", {number("time_ns"), id("seq"), text("target"), text("source"),
                          text("metric"), number("value_bytes"), text("text"), text("reason")}),
      marks("marks", {id("seq"), number("time_ns"), text("device"), text("kind"), text("pool"),
                      text("text"), id("thread_id")}),
      timeline("timeline", {text("device"), text("metric"), text("key"), number("bin_start_ns"),
                            number("min_bytes"), number("max_bytes"), number("last_bytes")}) {}

void Datasets::discard_rows() {
  for (Table* table : {&events, &allocations, &names, &segments, &operators, &stacks, &stages,
                       &steps, &samples, &marks, &timeline})
    table->discard_rows();
}

} // namespace memtrace
