// The gradient of a bound parameter: read at each step, and checked where it is not like the last.
#pragma once

#include <cstdint>

#include "bound_params.hpp"

namespace hookrun {

class BoundGradient {
 public:
  // Reads the gradient that the member has now; false where it has none. Throws Mismatch where its
  // layout is another one than the parameter's, or it shares memory with what is written.
  //
  //   held  the gradient's Python object or None, so that no Python runs; null: none is held, and
  //         nothing refers to the gradient afterwards
  bool read(const BoundParams& params, const Member& member, PyObject* held = nullptr);

  // A hint that it will be read soon: most gradients are where the last ones were.
  void prefetch() const;
  static constexpr std::size_t kAhead = 8;  // how many before

  // Of the latest gradient:
  std::int64_t address() const { return address_; }
  cpu::DType dtype() const { return dtype_; }
  // Whether it was read through its Python object. Where none was held, any Python can run then.
  bool was_read_anew() const { return was_read_anew_; }

 private:
  bool is_like_last(const BoundParams& params, const Member& member, const Torch::Gradient& now);
  bool read_anew(const BoundParams& params, const Member& member, PyObject* held);

  Torch::Trail trail_{};  // to the gradient of the member's tensor
  Torch::Parts parts_;    // of the latest gradient

  bool is_known_ = false;  // the rest holds
  bool was_read_anew_ = false;
  cpu::DType dtype_ = cpu::DType::kNone;
  std::uint8_t item_size_ = 0;  // bytes
  std::uint64_t layout_ = 0;    // of one that was read and checked
  std::int64_t offset_ = 0;     // of its elements from the begin of its storage, in bytes
  std::int64_t address_ = 0;    // of its elements
};

}  // namespace hookrun
