// What was said of tensors while the program ran: names, kinds and shapes, joined to allocations.
//
// Scans of models leave notes, calls of models and others leave records in the order of events. One
// says "at this tick, the storage at this address is that weight"; the allocation live then
// is the one. Notes are applied in the order of ticks, as the events go by. Memory of torch's CPU
// allocator that no recorded allocation explains was there before the recording: it is a
// preexisting row from the first event on, as CUDA's is.
#pragma once

#include "analyse/labels.h"
#include "analyse/lifetimes.h"
#include "store/spool_reader.h"

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace memtrace {

class TensorNotes {
 public:
  TensorNotes(NameStrings& names, Lifetimes& lifetimes, Table& rows, const TickScale& scale);

  // Of a process that runs: what was noted meanwhile.
  void read_on();
  // Before the first record: rows for the CPU memory that was there before the recording.
  void begin(const SpoolReader& reader);
  // Applies all notes that were taken before `ticks`.
  void apply_before(uint64_t ticks) {
    while (next_ < notes_.size() && notes_[next_].ticks < ticks)
      apply_next();
  }
  // Of the allocation that is live there now; memory that nobody recorded gets no name.
  void tensor(const TensorRecord& record);
  // An external allocation was described: a note that came just before it may mean it.
  void external(uint64_t address);
  void finish();

  uint64_t unmatched() const { return unmatched_; }

 private:
  struct Layout {
    StringId dtype = StringId::null;
    std::vector<int64_t> shape;
  };
  struct Note {
    uint64_t ticks = 0, address = 0, bytes = 0;
    DeviceCode device = kCpu;
    bool torchs_own = false; // of host memory: its CPU allocator's, not handed to it
    StringId name{}, kind{}, label{};
    Category label_category{};
    int64_t offset_bytes = 0, resident_bytes = 0;
    Layout layout;
  };
  // Noted memory of torch's CPU allocator that may have been there before the first record.
  class Candidates {
   public:
    void add(const Note& note); // in the order of ticks
    void exclude(const LogRecords& log, const SpoolReader& reader);
    const std::map<uint64_t, const Note*>& left() const { return first_; }

   private:
    void exclude(const AllocatorEvent& event);

    std::map<uint64_t, const Note*> first_; // by address: the first note of it
    uint64_t last_ticks_ = 0;               // of these notes
  };
  // The names that a live allocation already has, as hashes: few as a rule, and then looked
  // through; where parts of a data set are passed one by one, as many as there are.
  class KnownNames {
   public:
    bool add(uint64_t hash); // false: it has that one

   private:
    static constexpr size_t kFew = 16;
    std::vector<uint64_t> few_;
    std::unique_ptr<std::unordered_set<uint64_t>> many_; // then all of them
  };
  void read(std::string_view text);
  void apply_next();
  uint64_t first_pause(const SpoolReader& reader) const; // its ticks; UINT64_MAX: none
  void add_preexisting(const Note& note, int64_t time_ns);
  void apply(const Note& note, Allocation& allocation);
  void add_name(Allocation& allocation, StringId name, StringId kind, int64_t offset_bytes,
                const Layout& layout);
  const Layout& layout_of(uint32_t text_id);

  NameStrings& names_;
  Lifetimes& lifetimes_;
  Table& rows_;
  const TickScale& scale_;
  std::vector<Note> notes_;
  size_t read_ = 0;                                         // of text.log
  size_t next_ = 0;                                         // of notes_
  std::unordered_map<uint64_t, std::vector<Note>> waiting_; // by address
  std::unordered_map<int64_t, KnownNames> named_; // by allocation: models are scanned repeatedly
  std::unordered_map<uint32_t, Layout> layouts_;  // by text id
  uint64_t unmatched_ = 0;
};

} // namespace memtrace
