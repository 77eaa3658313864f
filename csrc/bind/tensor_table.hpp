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

// What an operation does with a list, as bits.
enum Access : unsigned {
  kRead = 0,
  // It writes the tensors: none may share memory with another tensor of the table.
  kWrite = 1 << 0,
  // None in the list leaves that tensor out of its row.
  kOptional = 1 << 1,
  // Results that autograd has recorded are refused while it records: writing them in place would
  // not be recorded.
  kUnrecorded = 1 << 2,
};

// One list of the table.
struct Column {
  const char* name;  // as the caller knows it
  py::handle list;   // borrowed during the call
  unsigned dtypes;   // that the kernel takes, as bits
  unsigned access = kRead;

  bool is(Access flag) const { return (access & flag) != 0; }
};

// Python lists of tensors, as rows of tensors that belong together. They are read and checked
// before anything is written, with one of three results: what no backend could take raises
// (TypeError, ValueError); what only these kernels cannot take sets the unsupported reason, and the
// caller falls back to another backend; the rest can be computed on.
//
// The table keeps the tensors alive, so that their memory stays valid while the GIL is released.
class TensorTable {
 public:
  TensorTable(const char* op, std::vector<Column> columns);

  // Why the CPU kernels cannot take this table; empty if they can.
  const std::string& unsupported_reason() const { return unsupported_reason_; }

  // The rows as the kernels take them; they stay the table's. Only without an unsupported reason.
  cpu::TensorList list();

  // Unsupported unless columns 0 and 1 have one dtype in each row, or both one of `otherwise`.
  void require_pairs(unsigned otherwise);

  // Unsupported unless this tensor has one of the dtypes, or is left out.
  void require(std::size_t column, std::size_t row, unsigned dtypes);

  // The first reason is kept.
  void set_unsupported(std::string reason) {
    if (unsupported_reason_.empty()) unsupported_reason_ = std::move(reason);
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
  // By column: tuples, since other code may change the lists while their tensors are read, or once
  // a kernel has released the GIL.
  std::array<py::object, cpu::kColumns> tensors_;
  std::vector<cpu::Row> rows_;
  std::vector<dlpack::DataType> types_;  // by row and column
  std::string unsupported_reason_;
  int grad_enabled_ = -1;  // whether autograd records; -1: not asked yet
};

}  // namespace hookrun
