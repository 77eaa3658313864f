#include "torch_tensors.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <string_view>
#include <vector>

namespace hookrun {
namespace {

constexpr std::size_t kMetadataWords = 8;  // no autograd metadata has fewer

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
  find_fingerprints(torch);
  find_versions(torch);
  find_gradients(torch);
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
  constexpr std::size_t kFirst = 1, kEnd = kImplWords;
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
  constexpr std::size_t kFirst = 1, kEnd = kImplWords;
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

// The fingerprint is a sum over the words of the TensorImpl and of its StorageImpl, but for their
// reference counts. Nothing needs to be known of which word means what: it is used if it shows
// every kind of change there is.
void Torch::find_fingerprints(const py::module_& torch) {
  try {
    const py::object sample = real_tensor(torch, 1);
    const py::object storage = sample.attr("untyped_storage")().attr("_cdata");
    storage_word = word_with(word(sample.ptr(), impl_word), kImplWords, storage);
    if (storage_word == 0) return;
    const py::object check = py::cpp_function([&] { return fingerprints_show_all_changes(torch); });
    if (torch.attr("no_grad")()(check)().cast<bool>()) return;
  } catch (const py::error_already_set&) {
    // such as in inference mode, or of a torch that has another way to do one of the changes
  }
  storage_word = 0;
}

bool Torch::fingerprints_show_all_changes(const py::module_& torch) const {
  using namespace py::literals;
  const auto matrix = [&] { return real_tensor(torch, 6).attr("view")(2, 3); };
  const auto shows = [&](const py::object& tensor, auto&& change) {
    const std::uint64_t before = fingerprint(parts(tensor.ptr()));
    change(tensor);
    return fingerprint(parts(tensor.ptr())) != before;
  };
  using Tensor = const py::object&;
  const auto set_data = [](Tensor tensor, const py::object& data) { tensor.attr("data") = data; };
  const auto strides = [&](Tensor tensor, py::tuple now) {
    tensor.attr("as_strided_")(tensor.attr("shape"), std::move(now));
  };
  const py::object longer = real_tensor(torch, 9).attr("view")(3, 3);
  const bool shows_changes =
      shows(matrix(), [&](Tensor x) { set_data(x, matrix()); }) &&
      shows(longer[py::slice(0, 2, 1)],
            [&](Tensor x) { set_data(x, longer[py::slice(1, 3, 1)]); }) &&
      shows(matrix(), [&](Tensor x) { set_data(x, x.attr("view")(3, 2)); }) &&
      shows(matrix(), [&](Tensor x) { set_data(x, x.attr("double")()); }) &&
      shows(matrix(),
            [&](Tensor x) { set_data(x, x.attr("view")("dtype"_a = torch.attr("int32"))); }) &&
      shows(matrix(), [&](Tensor x) { set_data(x, torch.attr("_neg_view")(x)); }) &&
      shows(matrix(), [&](Tensor x) { x.attr("set_")(matrix()); }) &&
      shows(matrix(), [&](Tensor x) { x.attr("t_")(); }) &&
      shows(matrix(), [&](Tensor x) { x.attr("unsqueeze_")(0); }) &&
      shows(matrix(), [&](Tensor x) { x.attr("resize_")(3, 2); }) &&
      shows(matrix(), [&](Tensor x) { strides(x, py::make_tuple(0, 1)); }) &&
      shows(real_tensor(torch, 32).attr("view")(2, 2, 2, 2, 2),
            [&](Tensor x) { strides(x, py::make_tuple(16, 8, 4, 1, 2)); }) &&
      shows(matrix(), [&](Tensor x) { x.attr("untyped_storage")().attr("resize_")(1 << 20); });
  const py::object same = matrix();
  const bool shows_values = shows(same, [&](Tensor x) {
    x.attr("add_")(1);
    const py::object view = x.attr("view")(6);
    const py::object second_reference = x;
  });
  return shows_changes && !shows_values;
}

// A tensor and its detached alias share two objects that no other tensor has: the storage and the
// version counter, which has its number behind the words that all such objects begin with.
void Torch::find_versions(const py::module_& torch) {
  if (storage_word == 0) return;
  const py::object sample = real_tensor(torch, 1);
  const py::object alias = sample.attr("detach")();
  // Two: a word with an unused bit, which holds anything, cannot differ in all three.
  const py::object other = real_tensor(torch, 1), another = real_tensor(torch, 1);
  const auto at = [&](const py::object& tensor, std::size_t i) {
    return word(word(tensor.ptr(), impl_word), i);
  };
  std::vector<std::size_t> shared;
  for (std::size_t i = 1; i < kImplWords; ++i) {
    const bool is_shared = at(sample, i) == at(alias, i) && at(sample, i) != at(other, i) &&
                           at(sample, i) != at(another, i) && at(other, i) != at(another, i);
    if (is_shared && i != storage_word) shared.push_back(i);
  }
  if (shared.size() != 1 || at(sample, shared[0]) == nullptr) return;
  const auto asked = [](const py::object& tensor) {
    return tensor.attr("_version").cast<std::uint32_t>();
  };
  const auto right = [&](int writes) {
    for (int i = 0; i < writes; ++i) sample.attr("add_")(1);
    return version(sample.ptr())->load() == asked(sample);
  };
  version_word = shared[0];
  version_bytes = 2 * sizeof(void*);
  if (right(3) && right(4) && right(1)) {
    version(sample.ptr())->fetch_add(5);
    if (right(0) && asked(sample) == asked(alias) && asked(sample) >= 5) return;
  }
  version_word = 0;
}

// A gradient's TensorImpl is the word of its parameter's autograd metadata that follows every
// assignment; its Python object is one of its words, and its memory one of those of its storage.
void Torch::find_gradients(const py::module_& torch) {
  if (autograd_word == 0 || storage_word == 0) return;
  using namespace py::literals;
  const py::object parameter = torch.attr("nn").attr("Parameter");
  const py::object first = parameter(real_tensor(torch, 2)),
                   second = parameter(real_tensor(torch, 2));
  const auto metadata = [&](const py::object& tensor) {
    return word(word(tensor.ptr(), impl_word), autograd_word);
  };
  const auto is_at = [&](const py::object& of, std::size_t i, const py::object& tensor) {
    return word(metadata(of), i) == word(tensor.ptr(), impl_word);
  };
  const py::object a = real_tensor(torch, 2), b = real_tensor(torch, 2);
  first.attr("grad") = a;
  std::size_t found = 1;
  while (found < kMetadataWords && !is_at(first, found, a)) ++found;
  if (found == kMetadataWords) return;
  no_grad = word(metadata(second), found);
  second.attr("grad") = b;
  first.attr("grad") = b;
  const bool follows = is_at(first, found, b) && is_at(second, found, b);
  first.attr("grad") = py::none();
  second.attr("grad") = a;
  if (!follows || word(metadata(first), found) != no_grad || !is_at(second, found, a)) return;

  const py::object memory =
      py::reinterpret_steal<py::object>(PyByteArray_FromStringAndSize("12345678", 8));
  const py::object borrowed = torch.attr("frombuffer")(memory, "dtype"_a = torch.attr("float32"));
  for (const py::object& tensor : {a, borrowed}) {
    const void* impl = word(tensor.ptr(), impl_word);
    const auto* content = static_cast<const void* const*>(impl);
    const std::size_t object = static_cast<std::size_t>(
        std::find(content + 1, content + kImplWords, tensor.ptr()) - content);
    const std::size_t data = word_with(word(impl, storage_word), kStorageWords,
                                       tensor.attr("untyped_storage")().attr("data_ptr")());
    if (object == kImplWords || data == 0) return;
    if (object_word != 0 && (object != object_word || data != data_word)) return;
    object_word = object;
    data_word = data;
  }
  if (find_layouts(torch)) grad_word = found;
}

// The bits that are the same in all tensors that are alike. A word in which many differ is a
// pointer: none of it counts. Bits that nobody sets hold what was in the memory before; where they
// happened to be alike in all samples, but not in those of the check, more samples tell.
bool Torch::find_layouts(const py::module_& torch) {
  constexpr int kSamples = 24, kFewBits = 20, kAttempts = 6;
  std::vector<py::object> samples;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    for (int i = 0; i < kSamples << attempt; ++i) {
      samples.push_back(real_tensor(torch, 6).attr("view")(2, 3));
    }
    for (std::size_t i = 0; i < kImplWords; ++i) {
      std::uint64_t differing = 0;
      for (const py::object& sample : samples) {
        const auto at = [&](const py::object& tensor) {
          return reinterpret_cast<std::uintptr_t>(word(word(tensor.ptr(), impl_word), i));
        };
        differing |= at(sample) ^ at(samples[0]);
      }
      const bool is_pointer = i == kReferenceCount || i == object_word || i == storage_word ||
                              i == version_word || __builtin_popcountll(differing) > kFewBits;
      layout_masks_[i] = is_pointer ? 0 : ~differing;
    }
    try {
      const py::object check = py::cpp_function([&] { return layouts_show_all_changes(torch); });
      if (torch.attr("no_grad")()(check)().cast<bool>()) return true;
    } catch (const py::error_already_set&) {
      return false;  // such as in inference mode
    }
  }
  return false;
}

bool Torch::layouts_show_all_changes(const py::module_& torch) const {
  using namespace py::literals;
  const auto of = [&](const py::object& tensor) { return layout(word(tensor.ptr(), impl_word)); };
  const auto matrix = [&] { return real_tensor(torch, 6).attr("view")(2, 3); };
  const auto strided = [&](int numel, py::tuple shape, py::tuple strides, int offset) {
    return real_tensor(torch, numel).attr("as_strided")(shape, strides, offset);
  };
  const std::uint64_t expected = of(matrix());
  const py::object others[] = {matrix().attr("view")(3, 2),
                               matrix().attr("view")(6),
                               matrix().attr("view")(1, 2, 3),
                               matrix().attr("t")(),
                               matrix().attr("double")(),
                               matrix().attr("half")(),
                               matrix().attr("view")("dtype"_a = torch.attr("int32")),
                               matrix().attr("to")("device"_a = "meta"),
                               torch.attr("_neg_view")(matrix()),
                               strided(9, py::make_tuple(2, 3), py::make_tuple(3, 1), 3),
                               strided(9, py::make_tuple(2, 3), py::make_tuple(4, 1), 0),
                               strided(9, py::make_tuple(2, 3), py::make_tuple(0, 1), 0)};
  const auto deep = [&](int last, int stride) {
    return of(
        strided(64, py::make_tuple(2, 2, 2, 2, last), py::make_tuple(16, 8, 4, 1, stride), 0));
  };
  return of(matrix()) == expected &&
         std::all_of(std::begin(others), std::end(others),
                     [&](const py::object& other) { return of(other) != expected; }) &&
         deep(2, 2) == deep(2, 2) && deep(2, 2) != deep(1, 2) && deep(2, 2) != deep(2, 3);
}

}  // namespace hookrun
