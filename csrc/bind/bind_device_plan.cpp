// DevicePlan in Python.
#include <pybind11/stl.h>

#include <memory>

#include "collectable.hpp"
#include "device_plan.hpp"

namespace hookrun {
namespace {

py::object bind_device_step(py::handle optimizer, py::handle model_params, py::handle ema,
                            bool is_sgd, const py::buffer& block, const py::buffer& sent) {
  try {
    return py::cast(
        std::make_unique<DevicePlan>(optimizer, model_params, ema, is_sgd, block, sent));
  } catch (const Mismatch& mismatch) {
    return py::str(mismatch.reason);
  }
}

}  // namespace

void bind_device_plan(py::module_& module) {
  using namespace py::literals;
  py::class_<DevicePlan>(module, "DevicePlan", py::is_final(),
                         py::custom_type_setup(make_collectable<DevicePlan>),
                         "Steps of one optimizer on a device; see csrc/bind/device_plan.hpp.")
      .def("verify", &DevicePlan::verify, "optimizer"_a, "model_params"_a, "ema"_a,
           "ema_momentum"_a, "max_norm"_a)
      .def("finish", &DevicePlan::finish);
  module.def("bind_device_step", &bind_device_step, "optimizer"_a, "model_params"_a, "ema"_a,
             "is_sgd"_a, "block"_a, "sent"_a,
             "A DevicePlan; or a text that says why there is none.");
}

}  // namespace hookrun
