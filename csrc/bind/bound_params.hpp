// The parameters of an optimizer, and what belongs to each: read and checked once, and verified at
// each step.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bound_objects.hpp"
#include "bound_optimizer.hpp"
#include "tensor_elements.hpp"

namespace hookrun {

// A parameter, and what belongs to it. The objects are referred to elsewhere in the plan.
struct Member {
  PyObject* param = nullptr;
  PyObject* source = nullptr;   // the tensor whose gradient counts: the parameter or its copy
  PyObject* copy = nullptr;     // null: there is none
  PyObject* average = nullptr;  // null: there is none
  TensorElements elements;      // of the parameter
  cpu::Row row;                 // without its gradient
  void* step = nullptr;         // the step count; null: there is none
  cpu::DType step_dtype = cpu::DType::kNone;

  double next_step() const {
    if (step == nullptr) return 0.0;
    return step_dtype == cpu::DType::kFloat64 ? *static_cast<double*>(step) + 1.0
                                              : *static_cast<float*>(step) + 1.0f;
  }
  void count_step() const {
    if (step == nullptr) return;
    if (step_dtype == cpu::DType::kFloat64) {
      *static_cast<double*>(step) += 1.0;
    } else {
      *static_cast<float*>(step) += 1.0f;
    }
  }
};

struct Group {
  PyObject* dict;
  BoundSequence params;
};

class BoundParams {
 public:
  // Throws Mismatch where these cannot be bound.
  //   model_params, ema  a list or tuple with an entry for each parameter, or None.
  //   where              the kernels, which decide where the tensors must be and of which dtypes
  enum class Kernels { kCpu, kDevice };
  BoundParams(py::handle optimizer, py::handle model_params, py::handle ema,
              const BoundOptimizer& kind, Kernels where = Kernels::kCpu);

  // Throw Mismatch unless it is a tensor where all are.
  TensorElements read(PyObject* tensor) const { return read_elements(tensor, device_); }

  // Throw Mismatch unless the optimizer, its groups and state, and the lists are the same objects;
  // and unless their tensors' memory is where it was.
  void verify_objects(py::handle optimizer, py::handle model_params, py::handle ema) const;
  void verify_memory() const;

  // Whether the elements share memory with a tensor that a step writes.
  bool share_written_memory(const TensorElements& elements) const;

  const std::vector<Group>& groups() const { return groups_; }
  const std::vector<Member>& members() const { return members_; }  // in the order of the groups

  // Visits what it refers to, for the garbage collector.
  int traverse(visitproc visit, void* arg) const;

 private:
  struct BoundTensor {
    PyObject* object;
    Torch::Parts parts;
    std::uint64_t fingerprint;  // of the parts
  };
  struct Range {
    const char* begin;
    const char* end;
  };

  py::object attribute(PyObject* name) const;
  PyObject* first_param() const;
  void bind_member(PyObject* param, PyObject* state, std::int32_t group);
  void bind_tensor(Member& member, std::size_t column, PyObject* tensor);
  void bind_state(Member& member, PyObject* state);
  void add_written(PyObject* tensor, const TensorElements& elements);
  void check_written_apart();

  const BoundOptimizer& kind_;
  Kernels where_;
  dlpack::Device device_ = {dlpack::kCpu, 0};
  py::object optimizer_, type_;
  py::object own_step_;  // assigned to the optimizer object; null: none is
  BoundSequence group_list_;
  BoundDict state_;
  std::vector<BoundDict> states_;  // of the parameters, in the order of `state_`
  BoundOptionalSequence model_params_, ema_;
  std::vector<Group> groups_;
  std::vector<Member> members_;
  std::vector<BoundTensor> tensors_;  // all that are written
  std::vector<Range> written_;        // in order
};

}  // namespace hookrun
