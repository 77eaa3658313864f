#include "torch_tensors.hpp"

namespace hookrun {
namespace {

// Which of an object's first words holds `address`; 0 if none does. The first is never asked for.
std::size_t word_with(const void* object, std::size_t words, const py::object& address) {
  const auto* content = static_cast<const void* const*>(object);
  for (std::size_t i = 1; i < words; ++i) {
    if (content[i] == PyLong_AsVoidPtr(address.ptr())) return i;
  }
  return 0;
}

// The word in which a view differs from its base by one bit alone, and that bit; 0 if there is
// none. Of what a tensor's object stands for, the first words count references and point elsewhere.
std::size_t word_of_flag(const void* base, const void* view, std::uint64_t* flag) {
  constexpr std::size_t kFirst = 7, kEnd = 22;
  const auto* before = static_cast<const std::uint64_t*>(base);
  const auto* after = static_cast<const std::uint64_t*>(view);
  for (std::size_t i = kFirst; i < kEnd; ++i) {
    *flag = before[i] ^ after[i];
    if ((*flag & after[i]) != 0 && (*flag & (*flag - 1)) == 0) return i;
  }
  return 0;
}

}  // namespace

const Torch& Torch::get() {
  static const Torch* torch = new Torch;  // never destroyed: Python may be gone by then
  return *torch;
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

  const py::object sample = torch.attr("empty")(0);
  impl_word = word_with(sample.ptr(), 5, sample.attr("_cdata"));
  if (impl_word == 0) return;
  storage_word =
      word_with(word(sample.ptr(), impl_word), 8, sample.attr("untyped_storage")().attr("_cdata"));
  find_lazy_flags(torch);
}

// Both flags are sought, and must stand in one word: one bit may differ by chance.
void Torch::find_lazy_flags(const py::module_& torch) {
  const py::object real = torch.attr("empty")(1);
  const py::object complex = torch.attr("view_as_complex")(torch.attr("empty")(2));
  const py::object negated = torch.attr("_neg_view")(real);
  const py::object conjugated = complex.attr("conj")();
  const auto impl = [&](const py::object& each) { return word(each.ptr(), impl_word); };
  std::uint64_t negate = 0, conjugate = 0;
  const std::size_t found = word_of_flag(impl(real), impl(negated), &negate);
  if (found == 0 || found != word_of_flag(impl(complex), impl(conjugated), &conjugate)) return;
  lazy_word = found;
  lazy_flags = negate | conjugate;
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
