// Small copies to a device, for which the host does not wait.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "driver.hpp"

namespace hookrun::cuda {

// Blocks of pinned memory that are used in turn: the host fills one while the device may still read
// the others.
class UploadRing {
 public:
  // For the device that is current now.
  //   memory       pinned, of `blocks` times `block_bytes`; the caller keeps it
  UploadRing(std::shared_ptr<const Driver> driver, void* memory, std::size_t block_bytes,
             std::size_t blocks);
  ~UploadRing();
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  // Copies at most a block, which may be changed afterwards. Returns false, and copies nothing,
  // where the device has not read the next block yet.
  bool send(Address to, const void* from, std::size_t bytes, Stream stream);

 private:
  std::shared_ptr<const Driver> driver_;
  Context context_;
  std::byte* memory_;
  std::size_t block_bytes_;
  std::vector<Event> read_;  // by block: recorded behind the copy; null: not used yet
  std::size_t next_ = 0;
};

}  // namespace hookrun::cuda
