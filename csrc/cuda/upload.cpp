#include "upload.hpp"

#include <cstring>
#include <utility>

namespace hookrun::cuda {

UploadRing::UploadRing(std::shared_ptr<const Driver> driver, void* memory, std::size_t block_bytes,
                       std::size_t blocks)
    : driver_(std::move(driver)),
      context_(driver_->current_context()),
      memory_(static_cast<std::byte*>(memory)),
      block_bytes_(block_bytes),
      read_(blocks) {
  if (context_ == nullptr) throw Error("no CUDA context is current to copy to");
}

UploadRing::~UploadRing() {
  for (const Event event : read_) {
    if (event != nullptr) driver_->destroy_event(event);
  }
}

bool UploadRing::send(Address to, const void* from, std::size_t bytes, Stream stream) {
  if (bytes > block_bytes_) throw Error("more is to be copied than a block of the ring holds");
  const CurrentContext current(*driver_, context_);
  Event& event = read_[next_];
  if (event != nullptr && !driver_->is_done(event)) return false;
  std::byte* block = memory_ + next_ * block_bytes_;
  std::memcpy(block, from, bytes);
  driver_->copy_to_device(to, block, bytes, stream);
  if (event == nullptr) event = driver_->make_event();
  driver_->record_event(event, stream);
  next_ = (next_ + 1) % read_.size();
  return true;
}

}  // namespace hookrun::cuda
