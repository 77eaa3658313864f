#include "tensor_table.hpp"

#include <algorithm>
#include <array>
#include <tuple>

#include "tensor_layout.hpp"
#include "torch_tensors.hpp"

namespace hookrun {
namespace {

using cpu::DType;

bool has(unsigned dtypes, DType dtype) { return dtypes >> static_cast<int>(dtype) & 1u; }

std::string dtype_name(const dlpack::DataType& type) {
  static constexpr const char* kNames[] = {"int", "uint", "float", "handle", "bfloat", "complex"};
  if (type.code == dlpack::kBool) return "bool";
  const char* name = type.code < std::size(kNames) ? kNames[type.code] : "a number of bits: ";
  return name + std::to_string(type.bits);
}

std::string shape_of(const dlpack::Tensor& tensor) {
  std::string text = "(";
  for (int d = 0; d < tensor.ndim; ++d) {
    text += std::to_string(tensor.shape[d]) + (d + 1 < tensor.ndim || tensor.ndim == 1 ? "," : "");
    if (d + 1 < tensor.ndim) text += ' ';
  }
  return text + ")";
}

// Hashes of the sets of addresses and sizes that were found free of overlap: most lists come again
// at each step, and sorting thousands of addresses costs more than a small update.
class OverlapCache {
 public:
  bool has(std::uint64_t hash) const {
    return std::find(hashes_.begin(), hashes_.end(), hash) != hashes_.end();
  }
  void add(std::uint64_t hash) { hashes_[next_++ % hashes_.size()] = hash; }

  static OverlapCache& get() {  // call with the GIL held
    static OverlapCache cache;
    return cache;
  }

 private:
  std::array<std::uint64_t, 16> hashes_{};
  std::size_t next_ = 0;
};

// The list's tensors as a tuple of our own.
py::object held_tuple(py::handle list, const std::string& what) {
  PyObject* tuple = PySequence_Tuple(list.ptr());
  if (tuple == nullptr && PyErr_ExceptionMatches(PyExc_TypeError)) {
    PyErr_Clear();
    throw py::type_error(what + " is no list of tensors");
  }
  return steal(tuple);
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

}  // namespace

TensorTable::TensorTable(const char* op, std::vector<Column> columns)
    : op_(op), columns_(std::move(columns)) {
  std::size_t count = 0;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    tensors_[c] = held_tuple(columns_[c].list, std::string(op_) + ": " + columns_[c].name);
    const auto length = static_cast<std::size_t>(PyTuple_GET_SIZE(tensors_[c].ptr()));
    if (c == 0) count = length;
    if (length != count) {
      throw py::value_error(std::string(op_) + ": " + std::to_string(count) + " tensors in " +
                            columns_[0].name + ", but " + std::to_string(length) + " in " +
                            columns_[c].name);
    }
  }
  rows_.resize(count);
  types_.resize(count * columns_.size());
  std::array<dlpack::Tensor, cpu::kColumns> tensors;
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      Lookahead(PySequence_Fast_ITEMS(tensors_[c].ptr()), count).at(r);
      read(c, r, PyTuple_GET_ITEM(tensors_[c].ptr(), static_cast<Py_ssize_t>(r)), &tensors[c]);
    }
    check_row(r, tensors.data());
  }
  check_overlap();
}

std::string TensorTable::name_of(std::size_t column, std::size_t row) const {
  return std::string(columns_[column].name) + "[" + std::to_string(row) + "]";
}

// Fills in the row's part of this column and the tensor's description; its ndim is -1 where the
// tensor is left out or cannot be read.
void TensorTable::read(std::size_t c, std::size_t r, PyObject* item, dlpack::Tensor* tensor) {
  const Torch& torch = Torch::get();
  *tensor = {};
  tensor->ndim = -1;
  if (item == Py_None && columns_[c].is(kOptional)) return;
  if (!torch.is_plain(item)) {
    const std::string type = Py_TYPE(item)->tp_name;
    if (!torch.is_tensor(item)) {
      throw py::type_error(std::string(op_) + ": " + name_of(c, r) + " is a " + type +
                           ", not a tensor");
    }
    return set_unsupported(name_of(c, r) + " is a " + type + ", not a plain tensor");
  }
  if (columns_[c].is(kUnrecorded)) check_unrecorded(c, r, item);
  if (torch.api == nullptr) return set_unsupported("this torch has no DLPack exchange table");
  if (torch.api->tensor_from_object(item, tensor) != 0) {
    const py::error_already_set error;  // takes it over from Python
    tensor->ndim = -1;
    return set_unsupported(name_of(c, r) + " has no plain memory: " + error.what());
  }
  cpu::Row& row = rows_[r];
  row.dtype[c] = dtype_of(tensor->dtype);
  row.address[c] = static_cast<char*>(tensor->data) + tensor->byte_offset;
  type_at(c, r) = tensor->dtype;
  if (tensor->dtype.lanes != 1 || tensor->dtype.bits < 8) {
    return set_unsupported(name_of(c, r) + " packs several numbers into a byte");
  }
  if (numel_of(*tensor) != 0 && (row.address[c] == nullptr || torch.is_freed(item))) {
    return set_unsupported(name_of(c, r) + " has no memory");
  }
  if (torch.is_lazy(item)) {
    return set_unsupported(name_of(c, r) + " is a negated or conjugated view");
  }
  if (c == 0) row.item_size = static_cast<std::uint8_t>(tensor->dtype.bits / 8);
}

void TensorTable::check_unrecorded(std::size_t c, std::size_t r, PyObject* item) {
  if (grad_enabled_ == 0 || !Torch::get().is_recorded(item)) return;
  if (grad_enabled_ < 0) grad_enabled_ = Torch::records();
  if (grad_enabled_ == 0) return;
  throw py::value_error(std::string(op_) + ": " + name_of(c, r) +
                        " is a result that autograd has recorded, and writing it in place would "
                        "not be: write its .detach(), or call this within torch.no_grad()");
}

void TensorTable::check_row(std::size_t r, const dlpack::Tensor* tensors) {
  const dlpack::Tensor* first = nullptr;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    const dlpack::Tensor& tensor = tensors[c];
    if (tensor.ndim < 0) continue;
    if (first == nullptr) first = &tensor;
    if (!same_shape(tensor, *first)) {
      throw py::value_error(std::string(op_) + ": " + name_of(c, r) + " has shape " +
                            shape_of(tensor) + ", but its partner has " + shape_of(*first));
    }
    if (columns_[c].is(kWrite) && is_expanded(tensor)) {
      throw py::value_error(std::string(op_) + ": " + name_of(c, r) +
                            " is expanded: several of its elements share memory, so it cannot be "
                            "written; call .clone() first");
    }
    if (tensor.device.type != dlpack::kCpu) {
      rows_[r].address[c] = nullptr;  // not comparable with addresses of the host
      set_unsupported(name_of(c, r) + " is not on the CPU");
    }
    if (!has(columns_[c].dtypes, rows_[r].dtype[c])) {
      set_unsupported(name_of(c, r) + " is " + dtype_name(tensor.dtype));
    }
    if (!is_dense(tensor)) {
      rows_[r].address[c] = nullptr;  // it is not one range, so overlap cannot be checked here
      set_unsupported(name_of(c, r) + " has gaps between its elements");
    } else if (!same_strides(tensor, *first)) {
      set_unsupported(name_of(c, r) + " has its elements in another order than its partner");
    }
  }
  if (first != nullptr) rows_[r].numel = numel_of(*first);
}

void TensorTable::check_overlap() const {
  std::uint64_t hash = columns_.size();
  bool writes = false;
  for (const Column& column : columns_) {
    writes = writes || column.is(kWrite);
    hash = mix(hash, column.is(kWrite));
  }
  if (!writes) return;
  for (const cpu::Row& row : rows_) {
    hash = mix(hash, static_cast<std::uint64_t>(row.numel));
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      hash = mix(hash, reinterpret_cast<std::uintptr_t>(row.address[c]) * 16 +
                           static_cast<std::uint64_t>(row.dtype[c]));
    }
    hash = mix(hash, row.item_size);
  }
  if (OverlapCache::get().has(hash)) return;

  struct Range {
    const char* begin;
    const char* end;
    std::size_t row;
    std::size_t column;
  };
  std::vector<Range> ranges;
  ranges.reserve(rows_.size() * columns_.size());
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const auto* begin = static_cast<const char*>(rows_[r].address[c]);
      const std::int64_t bytes = rows_[r].numel * (type_at(c, r).bits / 8);
      if (begin != nullptr && bytes > 0) ranges.push_back({begin, begin + bytes, r, c});
    }
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::tie(a.begin, a.row, a.column) < std::tie(b.begin, b.row, b.column);
  });
  // The ranges so far that end last: of all, and of those that are written.
  const Range* furthest = nullptr;
  const Range* furthest_written = nullptr;
  for (const Range& now : ranges) {
    const bool written = columns_[now.column].is(kWrite);
    const Range* before = written ? furthest : furthest_written;
    if (before != nullptr && before->end > now.begin) {
      throw py::value_error(std::string(op_) + ": " + name_of(now.column, now.row) + " and " +
                            name_of(before->column, before->row) +
                            " share memory, and one of them is written");
    }
    if (furthest == nullptr || now.end > furthest->end) furthest = &now;
    if (written && (furthest_written == nullptr || now.end > furthest_written->end)) {
      furthest_written = &now;
    }
  }
  OverlapCache::get().add(hash);
}

void TensorTable::require_pairs(unsigned otherwise) {
  for (std::size_t r = 0; r < rows_.size() && unsupported_reason_.empty(); ++r) {
    const dlpack::DataType& a = type_at(0, r);
    const dlpack::DataType& b = type_at(1, r);
    const bool both = has(otherwise, rows_[r].dtype[0]) && has(otherwise, rows_[r].dtype[1]);
    if (both || (a.code == b.code && a.bits == b.bits)) continue;
    set_unsupported(name_of(0, r) + " is " + dtype_name(a) + " and " + name_of(1, r) + " is " +
                    dtype_name(b));
  }
}

void TensorTable::require(std::size_t column, std::size_t row, unsigned dtypes) {
  const DType dtype = rows_[row].dtype[column];
  if (dtype == DType::kNone || has(dtypes, dtype) || !unsupported_reason_.empty()) return;
  set_unsupported(name_of(column, row) + " is " + dtype_name(type_at(column, row)) + ", but its " +
                  "parameter is " + dtype_name(type_at(0, row)));
}

cpu::TensorList TensorTable::list() {
  return cpu::number_rows(rows_.data(), static_cast<std::int64_t>(rows_.size()));
}

}  // namespace hookrun
