#include "torch_tensors.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <string_view>

namespace hookrun {
namespace {

// The index of the word of an object that holds `address`; 0 if none does. Word 0 is not searched.
std::size_t word_with(const void* object, std::size_t words, const py::object& address) {
  const auto* content = static_cast<const void* const*>(object);
  for (std::size_t i = 1; i < words; ++i) {
    if (content[i] == PyLong_AsVoidPtr(address.ptr())) return i;
  }
  return 0;
}

// An fp32 tensor on the CPU, whatever the default device and dtype are.
py::object real_tensor(const py::module_& torch, int numel) {
  using namespace py::literals;
  return torch.attr("empty")(numel, "dtype"_a = torch.attr("float32"), "device"_a = "cpu");
}

}  // namespace

const Torch& Torch::get() {
  // Never destroyed: Python may be finalized by then. No static variable, whose initialization
  // could deadlock: it runs Python code, which may release the GIL, and another thread would then
  // wait for the initialization while it holds the GIL.
  static std::atomic<const Torch*> known{nullptr};
  const Torch* torch = known.load();
  if (torch != nullptr) return *torch;
  const Torch* made = new Torch;
  return *(known.compare_exchange_strong(torch, made) ? made : torch);
}

Torch::Torch() {
  const py::module_ torch = py::module_::import("torch");
  tensor = torch.attr("Tensor").cast<py::object>().release().ptr();
  parameter = torch.attr("nn").attr("Parameter").cast<py::object>().release().ptr();
  const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  if (capsule.is_none()) return;
  api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (api == nullptr) throw py::error_already_set();
  while (api != nullptr && api->version.major != 1) api = api->previous;
  if (api != nullptr && api->tensor_from_object == nullptr) api = nullptr;

  const char* reads = std::getenv("HOOKRUN_TENSOR_READS");
  if (reads != nullptr && std::string_view(reads) == "plain") return;
  const py::object sample = real_tensor(torch, 0);
  impl_word = word_with(sample.ptr(), 5, sample.attr("_cdata"));
  if (impl_word == 0) return;
  find_lazy_flags(torch);
  find_autograd_word(torch);
}

// A tensor's dispatch keys are one of its words, and the two flags are among them. It is the word
// that equals the dispatch keys in samples of every kind.
void Torch::find_lazy_flags(const py::module_& torch) {
  const py::object c = torch.attr("_C");
  const py::object keys_of = py::getattr(c, "_dispatch_keys", py::none());
  const py::object keys = py::getattr(c, "DispatchKeySet", py::none());
  if (keys_of.is_none() || !py::hasattr(keys, "raw_repr")) return;
  const auto bits = [](const py::object& set) {
    return set.attr("raw_repr")().cast<std::uint64_t>();
  };
  const py::object real = real_tensor(torch, 1);
  const py::object complex = torch.attr("view_as_complex")(real_tensor(torch, 2));
  const py::object samples[] = {real, torch.attr("_neg_view")(real), complex,
                                complex.attr("conj")(), torch.attr("nn").attr("Parameter")(real)};
  constexpr std::size_t kFirst = 1, kEnd = 22;  // no tensor has fewer words
  for (std::size_t i = kFirst; i < kEnd; ++i) {
    const auto holds_keys = [&](const py::object& sample) {
      return reinterpret_cast<std::uint64_t>(word(word(sample.ptr(), impl_word), i)) ==
             bits(keys_of(sample));
    };
    if (!std::all_of(std::begin(samples), std::end(samples), holds_keys)) continue;
    lazy_word = i;
    lazy_flags = bits(keys(c.attr("DispatchKey").attr("Negative"))) |
                 bits(keys(c.attr("DispatchKey").attr("Conjugate")));
    return;
  }
}

// The word that is null in a tensor without autograd metadata, and in none of the tensors that
// autograd has recorded. If that is not exactly one word, none is used.
void Torch::find_autograd_word(const py::module_& torch) {
  const py::object plain = real_tensor(torch, 1);
  const py::object parameter = torch.attr("nn").attr("Parameter")(real_tensor(torch, 2));
  const py::object recording = torch.attr("enable_grad")();
  const auto recorded = [&](const char* method, auto... arguments) -> py::object {
    return recording(parameter.attr(method))(arguments...);
  };
  const py::object written = recorded("clone");
  recording(written.attr("mul_"))(2.0);
  const py::object samples[] = {parameter,
                                recorded("exp"),
                                recorded("view", 1, 2),
                                recorded("sum"),
                                recorded("expand", 3, 2),
                                recorded("double"),
                                recorded("unbind")[py::int_(0)],
                                written};
  constexpr std::size_t kFirst = 1, kEnd = 22;  // no tensor has fewer words
  std::size_t found = 0, count = 0;
  for (std::size_t i = kFirst; i < kEnd; ++i) {
    const auto is_set = [&](const py::object& tensor) {
      return word(word(tensor.ptr(), impl_word), i) != nullptr;
    };
    if (is_set(plain) || !std::all_of(std::begin(samples), std::end(samples), is_set)) continue;
    found = i;
    ++count;
  }
  if (count == 1) autograd_word = found;
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

}  // namespace hookrun
