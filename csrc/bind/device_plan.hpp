// DevicePlan: what does not change from step to step of an optimizer on a device, bound once.
//
// It verifies at each step what StepPlan does on the CPU, and writes what the device must be told
// into a block: the settings, and where the gradients are. Whoever holds the plan sends the part of
// the block that has changed, launches the kernels, and lets the plan finish.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bound_gradient.hpp"
#include "bound_optimizer.hpp"
#include "bound_params.hpp"
#include "bound_versions.hpp"

namespace hookrun {

class DevicePlan {
 public:
  // Throws Mismatch where these cannot be bound; see BoundParams.
  //   block  the host's copy of the block: int64, writable. A line of settings, one for each group
  //          with gradients, and the address of each gradient.
  //   sent   as the device has it, of the same size; read only here
  DevicePlan(py::handle optimizer, py::handle model_params, py::handle ema, bool is_sgd,
             const py::buffer& block, const py::buffer& sent);

  // Verifies all, and writes the block. Returns None where the device has it already, or else the
  // begin and the end of the part that differs; or a text that says why the plan does not hold.
  py::object verify(py::handle optimizer, py::handle model_params, py::handle ema,
                    double ema_momentum, std::optional<double> max_norm);

  // After the launches: increases the versions of what they write.
  void finish() { versions_.bump(); }

  // Visits what it refers to, for the garbage collector; and forgets it.
  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  // A parameter that has a gradient.
  struct Gradient {
    std::size_t member;
    cpu::DType dtype;
    BoundGradient latest;
  };

  void bind_gradients();
  void bind_versions();
  py::object changed_part() const;
  void read_settings(double ema_momentum, double max_norm);
  void read_gradients();
  bool read_all();

  std::unique_ptr<BoundOptimizer> kind_;
  std::unique_ptr<BoundParams> params_;  // null: cleared
  bool is_sgd_;
  py::buffer_info block_info_, sent_info_;  // keep the memory
  std::int64_t* block_;
  const std::int64_t* sent_;
  std::size_t size_, settings_size_ = 0;

  std::vector<Gradient> gradients_;
  std::vector<std::size_t> without_gradient_;  // members
  std::vector<std::size_t> groups_;            // those with gradients
  std::vector<bool> has_momentum_;             // of these groups
  BoundVersions versions_;
};

void bind_device_plan(py::module_& module);

}  // namespace hookrun
