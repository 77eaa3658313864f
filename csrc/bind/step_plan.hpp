// StepPlan: what does not change from step to step of an optimizer on the CPU, bound once.
//
// A plan is bound after a step that took the careful way, with all its checks. Each later step
// looks whether everything is as it was: the same lists, groups and states by identity, and the
// same memory, by the tensors' fingerprints. Only gradients and the options of groups are read
// anew. Where something differs, nothing has been written, and the careful way takes the step:
// nothing is ever written to an address that was not verified in the same step.
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

// What a step does besides the update; see StepSettings in hookrun/ops/step_settings.py.
struct StepSettings {
  double inverse_scale;
  std::optional<double> max_norm;  // none: do not clip
  bool needs_norm;
  bool may_skip;
  bool error_if_nonfinite;
  double ema_momentum;
  int threads;
};

class StepPlan {
 public:
  // Throws Mismatch where these cannot be bound; see BoundParams.
  StepPlan(py::handle optimizer, py::handle model_params, py::handle ema, bool is_sgd);

  // Takes a step: returns the norm of the unscaled gradients, or a negative number where none is
  // needed. A text says why the plan does not hold; then nothing has been written.
  py::object step(py::handle optimizer, py::handle model_params, py::handle ema,
                  const StepSettings& settings);

  // Visits what it refers to, for the garbage collector; and forgets it.
  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  class Busy;

  double take(py::handle optimizer, py::handle model_params, py::handle ema,
              const StepSettings& settings);
  void read_options();
  enum class Reference { kNone, kHeld };
  void read_gradients();
  bool read_all(Reference reference);
  void hold_gradients();
  void verify_gradients();
  void take_gradient(std::size_t number);
  void select_rows();
  void make_rows(double ema_momentum);
  double norm_of(const StepSettings& settings);

  std::unique_ptr<BoundOptimizer> kind_;
  std::unique_ptr<BoundParams> params_;  // null: cleared
  bool busy_ = false;
  bool keeps_gil_;

  // By parameter, of the latest step.
  std::vector<py::object> gradients_;  // only while a step is taken that releases the GIL
  std::vector<BoundGradient> latest_;
  std::vector<cpu::Row> member_rows_;  // each with its gradient, if it has one
  std::vector<std::uint8_t> active_;   // whether it has one

  // What fits `active_`.
  bool selected_ = false;
  std::vector<std::size_t> numbers_;  // of the parameters with gradients
  std::vector<cpu::Row> averages_without_grad_;
  BoundVersions versions_;  // of what is written

  // The lists of the latest step.
  std::vector<cpu::Row> rows_, gradient_rows_;
  std::vector<double> partials_;
};

void bind_step_plan(py::module_& module);

}  // namespace hookrun
