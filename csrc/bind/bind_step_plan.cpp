// StepPlan in Python.
#include <pybind11/stl.h>

#include <memory>

#include "collectable.hpp"
#include "step_plan.hpp"

namespace hookrun {
namespace {

py::object bind_step(py::handle optimizer, py::handle model_params, py::handle ema, bool is_sgd) {
  try {
    return py::cast(std::make_unique<StepPlan>(optimizer, model_params, ema, is_sgd));
  } catch (const Mismatch& mismatch) {
    return py::str(mismatch.reason);
  }
}

}  // namespace

void bind_step_plan(py::module_& module) {
  using namespace py::literals;
  py::class_<StepPlan>(module, "StepPlan", py::is_final(),
                       py::custom_type_setup(make_collectable<StepPlan>),
                       "Steps of one optimizer, bound once; see csrc/bind/step_plan.hpp.")
      .def(
          "step",
          [](StepPlan& self, py::handle optimizer, py::handle model_params, py::handle ema,
             double inverse_scale, std::optional<double> max_norm, bool needs_norm, bool may_skip,
             bool error_if_nonfinite, double ema_momentum, int threads) {
            return self.step(optimizer, model_params, ema,
                             {inverse_scale, max_norm, needs_norm, may_skip, error_if_nonfinite,
                              ema_momentum, threads});
          },
          "optimizer"_a, "model_params"_a, "ema"_a, "inverse_scale"_a, "max_norm"_a, "needs_norm"_a,
          "may_skip"_a, "error_if_nonfinite"_a, "ema_momentum"_a, "threads"_a,
          "Take a step. Returns the norm of the unscaled gradients, negative where none is needed; "
          "or a text that says why the plan does not hold, and then nothing has been written.");
  module.def("bind_step", &bind_step, "optimizer"_a, "model_params"_a, "ema"_a, "is_sgd"_a,
             "A StepPlan; or a text that says why there is none.");
}

}  // namespace hookrun
