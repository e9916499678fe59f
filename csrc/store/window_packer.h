// Takes full windows from the program that records, beside it.
//
// What a thread of the program pays for a window is then one store: the copy, the kernel's part of
// it and the clearing are done here, on another core. A window goes from hand to hand:
//
//     the log's --- full: handed[i] = where it lies ---> anybody's
//     anybody's --- the packer marks it as taken ------> the packer's: into packed-N.bin, cleared
//     anybody's --- the log takes it back -------------> the log's, which appends it itself
//     the packer's --- handed[i] = 0 ------------------> the log's, empty
//
// The program never waits for this process. Whether it is slow, stopped or killed: what was handed
// over stays in windows.bin, where every reader finds it, and is taken back when the log needs it.
// One window that a killed packer had taken is not used again.
//
// Who converts the spool of a process that has ended holds a lock on windows.bin meanwhile; so does
// the packer for each window, and it takes none from a process that has ended.
#pragma once

#include "record/spool.h"
#include "store/mapped_file.h"
#include "store/packed_files.h"

#include <atomic>
#include <cstdint>
#include <map>
#include <string>

namespace memtrace {

class WindowPacker {
 public:
  enum class Left { stopped, writer_ended, unable };

  // Throws SpoolError: the spool is not there or not one, it cannot be written to, or its file
  // system knows no locks.
  explicit WindowPacker(const std::string& directory);
  ~WindowPacker();
  WindowPacker(const WindowPacker&) = delete;
  WindowPacker& operator=(const WindowPacker&) = delete;

  // Packs what is handed over, until the writer has ended, stop(), or it cannot go on: there is no
  // space. Throws SpoolError.
  Left work();
  // Packs what is handed over at this moment.
  enum class Result { done, writer_ended, unable };
  Result pack_handed();
  // Ends work() within a moment; called from another thread, before or during it.
  void stop() noexcept;

  uint64_t windows_packed() const { return windows_packed_; }

 private:
  std::atomic_ref<PackerState> state() const noexcept { return std::atomic_ref(handover_->packer); }
  bool anything_handed() const noexcept;
  bool writer_ended() const noexcept;
  Result pack(std::atomic_ref<uint64_t> handed);
  bool pack_chunks(void* window, uint32_t chunks);
  void* map_window(uint64_t word);
  void sleep_until_woken();

  std::string directory_;
  MappedFile control_file_;
  int windows_fd_ = -1;
  Handover* handover_ = nullptr;
  std::map<uint64_t, void*> windows_; // by their place in windows.bin
  PackedWriter packed_;
  std::atomic<bool> stopping_ = false;
  std::atomic<uint64_t> windows_packed_ = 0;
};

} // namespace memtrace
