#include "bound_gradient.hpp"

namespace hookrun {

bool BoundGradient::read(const BoundParams& params, const Member& member, PyObject* held) {
  const Torch& torch = Torch::get();
  was_read_anew_ = false;
  if (held == nullptr && torch.reads_gradients() && torch.is_plain(member.source)) {
    const Torch::Gradient now = torch.gradient(member.source);
    if (!now.exists()) return false;
    parts_ = now.parts();
    if (is_like_last(params, member, now)) return true;
  }
  was_read_anew_ = true;
  return read_anew(params, member, held);
}

void BoundGradient::prefetch() const {
  for (const void* each : trail_) __builtin_prefetch(each);
  Torch::prefetch(parts_);
}

// Most gradients are those of the last step, or lie elsewhere and are like them.
bool BoundGradient::is_like_last(const BoundParams& params, const Member& member,
                                 const Torch::Gradient& now) {
  if (!is_known_ || !now.is_plain() || now.layout() != layout_) return false;
  const std::uintptr_t storage = now.storage();
  if (storage == 0 && member.elements.numel != 0) return false;
  const auto address = static_cast<std::int64_t>(storage) + offset_;
  if (address == address_) return true;
  TensorElements elements = member.elements;
  elements.address = reinterpret_cast<void*>(address);
  elements.item_size = item_size_;
  if (params.share_written_memory(elements)) return false;
  address_ = address;
  return true;
}

bool BoundGradient::read_anew(const BoundParams& params, const Member& member, PyObject* held) {
  static PyObject* const grad = PyUnicode_InternFromString("grad");
  const Torch& torch = Torch::get();
  is_known_ = false;
  const py::object tensor =
      held == nullptr ? steal(PyObject_GetAttr(member.source, grad)) : borrow(held);
  if (tensor.is_none()) return false;
  const TensorElements elements = params.read(tensor.ptr());
  require(elements.has_layout_of(member.elements), "a gradient has another layout");
  require(!params.share_written_memory(elements), "a gradient shares memory with what is written");
  address_ = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(elements.address));
  dtype_ = elements.dtype;
  item_size_ = elements.item_size;
  if (held != nullptr || !torch.reads_gradients() || !torch.is_plain(member.source)) return true;
  const Torch::Gradient read = torch.gradient(member.source);
  if (!read.exists()) return true;
  trail_ = torch.trail(member.source);
  layout_ = read.layout();
  offset_ = address_ - static_cast<std::int64_t>(read.storage());
  is_known_ = true;
  return true;
}

}  // namespace hookrun
