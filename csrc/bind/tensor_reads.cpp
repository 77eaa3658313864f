// What is read of tensors once torch_tensors.cpp has found out where it is.
#include <array>

#include "torch_tensors.hpp"

namespace hookrun {
namespace {

// A fingerprint leaves out the first words of both: the type and the reference count.
constexpr std::size_t kFirst = Torch::kReferenceCount + 1;

// Odd numbers without a pattern: the powers of one.
constexpr auto kFactors = [] {
  std::array<std::uint64_t, Torch::kImplWords + Torch::kStorageWords> factors{};
  std::uint64_t power = 1;
  for (std::uint64_t& factor : factors) factor = power *= 0x9e3779b97f4a7c15u;
  return factors;
}();

// Of the words from `begin` to `end`, each with its bits in use and its factor.
template <std::size_t begin, std::size_t end, class Bits>
std::uint64_t weighted_sum(const void* object, const std::uint64_t* factors, const Bits& bits) {
  std::uint64_t sum = 0;
#pragma GCC unroll 32  // takes a third of the time of a loop
  for (std::size_t i = begin; i < end; ++i) {
    const auto word = reinterpret_cast<std::uintptr_t>(Torch::word(object, i));
    sum += bits(word, i) * factors[i];
  }
  return sum;
}

}  // namespace

std::uint64_t Torch::layout(const void* impl) const {
  return weighted_sum<0, kImplWords>(
      impl, kFactors.data(), [&](auto word, std::size_t i) { return word & layout_masks_[i]; });
}

std::uint64_t Torch::fingerprint(PyObject* item) const {
  const void* impl = word(item, impl_word);
  const void* storage = word(impl, storage_word);
  const auto all = [](auto word, std::size_t) { return word; };
  const std::uint64_t sum = reinterpret_cast<std::uintptr_t>(impl) +
                            weighted_sum<kFirst, kImplWords>(impl, kFactors.data(), all);
  if (storage == nullptr) return sum;
  const std::uint64_t* factors = kFactors.data() + kImplWords;
  return sum + weighted_sum<kFirst, kStorageWords>(storage, factors, all);
}

std::atomic<std::uint32_t>* Torch::version(PyObject* item) const {
  if (version_word == 0) return nullptr;
  const void* counter = word(word(item, impl_word), version_word);
  if (counter == nullptr) return nullptr;  // a tensor of inference mode
  auto* number = static_cast<char*>(const_cast<void*>(counter)) + version_bytes;
  return reinterpret_cast<std::atomic<std::uint32_t>*>(number);
}

Torch::Parts Torch::parts(PyObject* item) const {
  const void* impl = word(item, impl_word);
  return {impl, word(impl, storage_word)};
}

// Neither begins at a cache line: what does not begin in the first may end in one more.
void Torch::prefetch(const Parts& parts) {
  constexpr std::uintptr_t kLine = 64;
  const auto all_lines = [](const void* object, std::size_t words) {
    const auto* content = static_cast<const void* const*>(object);
    const auto begin = reinterpret_cast<std::uintptr_t>(content + kFirst);
    const auto end = reinterpret_cast<std::uintptr_t>(content + words);
    for (auto at = begin & ~(kLine - 1); at < end; at += kLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(at));
    }
  };
  all_lines(parts.impl, kImplWords);
  all_lines(parts.storage, kStorageWords);
}

bool Torch::is_recorded(PyObject* item) const {
  if (autograd_word != 0 && word(word(item, impl_word), autograd_word) == nullptr) return false;
  return !borrow(item).attr("grad_fn").is_none();
}

bool Torch::records() {
  return py::module_::import("torch").attr("is_grad_enabled")().cast<bool>();
}

bool Torch::is_lazy(PyObject* item) const {
  if (lazy_word != 0) {
    const void* impl = word(item, impl_word);
    return (static_cast<const std::uint64_t*>(impl)[lazy_word] & lazy_flags) != 0;
  }
  const auto tensor = py::reinterpret_borrow<py::object>(item);
  return tensor.attr("is_neg")().cast<bool>() || tensor.attr("is_conj")().cast<bool>();
}

bool Torch::is_freed(PyObject* item) const {
  if (reads_gradients()) {
    const void* storage = word(word(item, impl_word), storage_word);
    return storage == nullptr || word(storage, data_word) == nullptr;
  }
  const py::object address = borrow(item).attr("untyped_storage")().attr("data_ptr")();
  return PyLong_AsVoidPtr(address.ptr()) == nullptr;
}

}  // namespace hookrun
