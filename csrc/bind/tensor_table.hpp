// Python lists of tensors, checked and turned into what the CPU kernels take.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "../cpu/tensor_list.hpp"
#include "dlpack.hpp"
#include "python.hpp"

namespace hookrun {

// Sets of dtypes, as bits.
constexpr unsigned only(cpu::DType dtype) { return 1u << static_cast<int>(dtype); }
inline constexpr unsigned kHalves = only(cpu::DType::kFloat16) | only(cpu::DType::kBFloat16);
inline constexpr unsigned kNarrow = only(cpu::DType::kFloat32) | kHalves;
inline constexpr unsigned kFloats = kNarrow | only(cpu::DType::kFloat64);
inline constexpr unsigned kAnyType = ~0u;
inline constexpr unsigned kNoTypes = 0;

// One list of the table.
struct Column {
  const char* name;  // as the caller knows it
  py::handle list;
  unsigned dtypes;  // that the kernel takes
  bool written = false;
  bool optional = false;  // None in the list leaves that tensor out
  // Results that autograd has recorded are refused while it records: to write them in place would
  // not be recorded.
  bool unrecorded = false;
};

// Rows of tensors that belong together. Reading one is in three steps, all before anything is
// written: what can be no tensor list at all raises (TypeError, ValueError); what only this backend
// cannot do becomes an obstacle, and the caller goes to the reference; the rest can be computed on.
class TensorTable {
 public:
  TensorTable(const char* op, std::vector<Column> columns);

  // Why the CPU kernels cannot take this table; empty if they can.
  const std::string& obstacle() const { return obstacle_; }

  // Also fills in what the kernels need. Call with no obstacle only.
  cpu::TensorList list();

  // An obstacle unless columns 0 and 1 have one dtype in each row, or both a dtype of `otherwise`.
  void demand_pairs(unsigned otherwise);

  // An obstacle unless this tensor has one of the dtypes, or is left out.
  void demand(std::size_t column, std::size_t row, unsigned dtypes);

  // The first one counts.
  void set_obstacle(std::string text) {
    if (obstacle_.empty()) obstacle_ = std::move(text);
  }

  std::vector<cpu::Row>& rows() { return rows_; }
  const std::vector<cpu::Row>& rows() const { return rows_; }

 private:
  void read(std::size_t column, std::size_t row, PyObject* item, dlpack::Tensor* tensor);
  void check_unrecorded(std::size_t column, std::size_t row, PyObject* item);
  void check_row(std::size_t row, const dlpack::Tensor* tensors);
  void check_overlap() const;
  std::string name_of(std::size_t column, std::size_t row) const;
  dlpack::DataType& type_at(std::size_t column, std::size_t row) {
    return types_[row * columns_.size() + column];
  }
  const dlpack::DataType& type_at(std::size_t column, std::size_t row) const {
    return types_[row * columns_.size() + column];
  }

  const char* op_;
  std::vector<Column> columns_;
  // By column. Other code may change the lists while their tensors are read, or once a kernel has
  // released the lock.
  std::array<py::object, cpu::kColumns> tensors_;
  std::vector<cpu::Row> rows_;
  std::vector<dlpack::DataType> types_;  // by row and column
  std::string obstacle_;
  int records_ = -1;  // whether autograd records; -1: not asked yet
};

}  // namespace hookrun
