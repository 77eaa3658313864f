// What reading a torch tensor needs beside DLPack: the tensor types, and two properties that DLPack
// does not have: whether the tensor is a negative or conjugate view, and whether autograd has
// recorded it.
//
// The plain way calls a Python method of each tensor for each property. The fast way reads words of
// the tensor object; which words, is determined once on sample tensors of every kind, and it is
// used only if all samples agree. benchmarks/bench_tensor_reads.py measures the gain;
// HOOKRUN_TENSOR_READS=plain chooses the plain way.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "../core/word_hash.hpp"
#include "dlpack.hpp"
#include "python.hpp"

namespace hookrun {

struct Torch {
  PyObject* tensor;     // torch.Tensor
  PyObject* parameter;  // torch.nn.Parameter
  const dlpack::ExchangeApi* api = nullptr;
  // Indices of words; 0: not found.
  std::size_t impl_word = 0;      // of the Python object: the pointer to its TensorImpl
  std::size_t lazy_word = 0;      // of the TensorImpl: the dispatch keys
  std::uint64_t lazy_flags = 0;   // those for negative and conjugate views
  std::size_t autograd_word = 0;  // of the TensorImpl: the pointer to the autograd metadata
  std::size_t storage_word = 0;   // of the TensorImpl: the pointer to the StorageImpl
  std::size_t version_word = 0;   // of the TensorImpl: the pointer to the version counter
  std::size_t version_bytes = 0;  // from the beginning of the version counter to the version
  std::size_t grad_word = 0;      // of the autograd metadata: the pointer to the grad's TensorImpl
  const void* no_grad = nullptr;  // what is there without a gradient
  std::size_t object_word = 0;    // of the TensorImpl: the pointer to its Python object, if any
  std::size_t data_word = 0;      // of the StorageImpl: the pointer to its memory

  static const Torch& get();

  // Which fast reads are in use; for diagnosis, and for tests on every supported torch.
  bool reads_flags() const { return lazy_word != 0; }
  bool reads_autograd() const { return autograd_word != 0; }
  bool has_fingerprints() const { return storage_word != 0; }
  bool finds_versions() const { return version_word != 0; }
  bool reads_gradients() const { return grad_word != 0; }

  bool is_plain(PyObject* item) const {
    const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(item));
    return type == tensor || type == parameter;
  }
  bool is_tensor(PyObject* item) const {
    return PyObject_TypeCheck(item, reinterpret_cast<PyTypeObject*>(tensor));
  }

  // Whether the tensor is a negative or conjugate view, such as `x.conj().imag`: its memory does
  // not hold its own values, and DLPack does not say so.
  bool is_lazy(PyObject* item) const;

  // Whether the memory of its storage was freed. An offset into it hides that from the address.
  bool is_freed(PyObject* item) const;

  // A number that is another one once the tensor's elements lie elsewhere, in another order, or are
  // others: any change of its address, shape, strides, dtype, device, or of its being a negative or
  // conjugate view. It may change without one of these; it does not with the values of elements.
  // Of plain tensors with at most kMaxDims dimensions, and only where `has_fingerprints`.
  // The objects that hold what it is made of, and a hint that they will be read soon.
  struct Parts {
    const void* impl = nullptr;
    const void* storage = nullptr;

    bool operator==(const Parts& other) const {
      return impl == other.impl && storage == other.storage;
    }
  };
  Parts parts(PyObject* item) const {
    const void* impl = word(item, impl_word);
    return {impl, word(impl, storage_word)};
  }
  static std::uint64_t fingerprint(const Parts& parts) {
    const std::uint64_t hash = hash_words<kFirst, kImplWords>(parts.impl);
    if (parts.storage == nullptr) return hash;
    // Both use the same keys, so their words must not count alike.
    return 3 * hash + hash_words<kFirst, kStorageWords>(parts.storage);
  }
  static void prefetch(const Parts& parts) {
    prefetch_words<kFirst, kImplWords>(parts.impl);
    prefetch_words<kFirst, kStorageWords>(parts.storage);
  }
  static constexpr int kMaxDims = 5;  // the shapes of more are stored outside the TensorImpl

  // Where the version of a tensor is counted, which autograd compares with that of the values it
  // has saved. It stays there as long as the fingerprint is the same. Null: not known, or the
  // tensor has none.
  std::atomic<std::uint32_t>* version(PyObject* item) const;

  // A plain tensor's gradient without its Python object, which it may not have yet: that of a
  // tensor which backward made is made, for 200 ns or more, when Python first looks at it. Only
  // where `reads_gradients`.
  class Gradient;
  Gradient gradient(PyObject* item) const;
  // The objects that lead to it: the Python object, the TensorImpl and the autograd metadata.
  using Trail = std::array<const void*, 3>;
  Trail trail(PyObject* item) const {
    const void* impl = word(item, impl_word);
    return {item, impl, word(impl, autograd_word)};
  }

  // Whether any tensor has a gradient; asks torch where it cannot be seen.
  bool has_gradient(PyObject* item) const;

  // Whether the tensor has a grad_fn.
  bool is_recorded(PyObject* item) const;

  // Whether autograd is enabled in this thread.
  static bool records();

  // No TensorImpl and no StorageImpl has fewer words; one of either counts its references.
  static constexpr std::size_t kImplWords = 22, kStorageWords = 8;
  static constexpr std::size_t kReferenceCount = 1;

  // Fingerprints leave out the first words of both: the type and the reference count.
  static constexpr std::size_t kFirst = kReferenceCount + 1;

  static const void* word(const void* object, std::size_t i) {
    return static_cast<const void* const*>(object)[i];
  }

 private:
  Torch();
  void find_lazy_flags(const py::module_& torch);
  void find_autograd_word(const py::module_& torch);
  void find_fingerprints(const py::module_& torch);
  void find_versions(const py::module_& torch);
  void find_gradients(const py::module_& torch);
  bool find_layouts(const py::module_& torch);
  bool layouts_show_all_changes(const py::module_& torch) const;
  std::uint64_t layout(const void* impl) const {
    return hash_words<0, kImplWords>(impl, layout_masks_.data());
  }
  bool fingerprints_show_all_changes(const py::module_& torch) const;

  std::array<std::uint64_t, kImplWords> layout_masks_{};  // bits that say what a tensor is like
};

class Torch::Gradient {
 public:
  bool exists() const { return impl_ != nullptr; }

  // Whether its class is one that may be read; without a Python object it is torch's own.
  bool is_plain() const {
    auto* object = const_cast<void*>(word(impl_, torch_.object_word));
    return object == nullptr || torch_.is_plain(static_cast<PyObject*>(object));
  }

  // A number that is another one if its shape, strides, dtype, device, place in its storage, or its
  // being a negative or conjugate view is. It may change without one of these.
  std::uint64_t layout() const { return torch_.layout(impl_); }

  Parts parts() const { return {impl_, word(impl_, torch_.storage_word)}; }

  // Where the memory of its storage begins; null where it has none.
  std::uintptr_t storage() const {
    const void* storage = word(impl_, torch_.storage_word);
    return storage == nullptr ? 0
                              : reinterpret_cast<std::uintptr_t>(word(storage, torch_.data_word));
  }

 private:
  friend struct Torch;
  Gradient(const Torch& torch, const void* impl) : torch_(torch), impl_(impl) {}

  const Torch& torch_;
  const void* impl_;
};

inline Torch::Gradient Torch::gradient(PyObject* item) const {
  const void* metadata = word(word(item, impl_word), autograd_word);
  const void* impl = metadata == nullptr ? no_grad : word(metadata, grad_word);
  return Gradient(*this, impl == no_grad ? nullptr : impl);
}

inline bool Torch::has_gradient(PyObject* item) const {
  if (reads_gradients() && is_plain(item)) return gradient(item).exists();
  static PyObject* const grad = PyUnicode_InternFromString("grad");
  return !steal(PyObject_GetAttr(item, grad)).is_none();
}

// Prefetches what reading the next tensors will need, in three steps: a tensor is a Python object
// that points to a TensorImpl that points to its storage and its version counter, and in a long
// list each of them is a cache miss. Halves the time for thousands of tensors.
class Lookahead {
 public:
  Lookahead(PyObject** items, std::size_t count) : items_(items), count_(count) {}

  void at(std::size_t row) const {
    if (row + 3 * kStride < count_) __builtin_prefetch(items_[row + 3 * kStride]);
    if (const char* impl = impl_at(row + 2 * kStride)) {
      for (int line = 0; line < 4; ++line) __builtin_prefetch(impl + 64 * line);
    }
    if (const char* impl = impl_at(row + kStride)) {
      // Storage, autograd metadata, extra metadata, version; prefetching a wrong address is
      // harmless.
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
