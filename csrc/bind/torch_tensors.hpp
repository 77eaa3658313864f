// What reading a torch tensor takes beside DLPack: its types, and two things that DLPack does not
// tell: whether its numbers are to be negated or conjugated, and whether autograd has recorded it.
//
// The plain way is to ask torch, by a Python method for each of them and for each tensor. The quick
// way is to look into the tensor's object: where, is found out once, on samples of every kind, and
// used only if they all agree. benchmarks/bench_tensor_reads.py has what the quick way gains, and
// HOOKRUN_TENSOR_READS=plain takes the other one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dlpack.hpp"
#include "python.hpp"

namespace hookrun {

struct Torch {
  PyObject* tensor;     // the types
  PyObject* parameter;  // whose instances are ordinary tensors
  const dlpack::ExchangeApi* api = nullptr;
  std::size_t impl_word = 0;  // where a tensor's Python object points to what it stands for
  std::size_t lazy_word = 0;  // where that says that its numbers are to be negated or conjugated
  std::uint64_t lazy_flags = 0;
  std::size_t autograd_word = 0;  // where that points to what autograd knows of it, if anything

  static const Torch& get();

  // What was found out, by name; for people who wonder, and for tests on every supported torch.
  bool reads_flags() const { return lazy_word != 0; }
  bool reads_autograd() const { return autograd_word != 0; }

  bool is_plain(PyObject* item) const {
    const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(item));
    return type == tensor || type == parameter;
  }
  bool is_tensor(PyObject* item) const {
    return PyObject_TypeCheck(item, reinterpret_cast<PyTypeObject*>(tensor));
  }

  // Whether the memory does not hold the tensor's numbers, but what they are the negative or the
  // conjugate of, as in `x.conj().imag`. DLPack does not tell.
  bool is_lazy(PyObject* item) const;

  // Whether autograd has recorded how the tensor was computed.
  bool is_recorded(PyObject* item) const;

  // Whether autograd records now, in this thread.
  static bool records();

  static const void* word(const void* object, std::size_t i) {
    return static_cast<const void* const*>(object)[i];
  }

 private:
  Torch();
  void find_lazy_flags(const py::module_& torch);
  void find_autograd_word(const py::module_& torch);
};

// Brings what reading the tensors at `row` will need into the caches, in three strides: a tensor is
// a Python object that points to another object that points to its storage and to its version, and
// in a long list after other work each of them is a cache miss. Halves the time for thousands of
// tensors.
class Lookahead {
 public:
  Lookahead(PyObject** items, std::size_t count) : items_(items), count_(count) {}

  void at(std::size_t row) const {
    if (row + 3 * kStride < count_) __builtin_prefetch(items_[row + 3 * kStride]);
    if (const char* impl = impl_at(row + 2 * kStride)) {
      for (int line = 0; line < 4; ++line) __builtin_prefetch(impl + 64 * line);
    }
    if (const char* impl = impl_at(row + kStride)) {
      // Storage, autograd's data, more data, version; to bring a wrong address in does no harm.
      for (std::size_t word = 2; word < 6; ++word) __builtin_prefetch(Torch::word(impl, word));
    }
  }

 private:
  static constexpr std::size_t kStride = 6;  // rows

  const char* impl_at(std::size_t row) const {
    const Torch& torch = Torch::get();
    if (row >= count_ || torch.impl_word == 0 || !torch.is_plain(items_[row])) return nullptr;
    return static_cast<const char*>(Torch::word(items_[row], torch.impl_word));
  }

  PyObject** items_;
  std::size_t count_;
};

}  // namespace hookrun
