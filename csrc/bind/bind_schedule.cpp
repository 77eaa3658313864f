// Policies and warm-up in Python: hookrun/schedules/ defines them, with the same argument names.
#include <pybind11/stl.h>

#include <limits>
#include <string>
#include <vector>

#include "../core/schedule.hpp"
#include "schedule.hpp"

namespace hookrun {
namespace {

using namespace schedule;

Strategy to_strategy(const std::string& name) {
  if (name == "cos") return Strategy::kCos;
  if (name == "linear") return Strategy::kLinear;
  if (name == "1-sqrt") return Strategy::kOneMinusSqrt;
  throw py::value_error("a strategy is 'cos', 'linear' or '1-sqrt', not '" + name + "'");
}

Warmup make_warmup(const std::string& kind, Count iters, double ratio) {
  using Kind = Warmup::Kind;
  if (kind == "constant") return Warmup(Kind::kConstant, iters, ratio);
  if (kind == "linear") return Warmup(Kind::kLinear, iters, ratio);
  if (kind == "exp") return Warmup(Kind::kExp, iters, ratio);
  throw py::value_error("a warm-up is 'constant', 'linear' or 'exp', not '" + kind + "'");
}

template <class Kind, class... Arguments>
std::shared_ptr<Policy> make(Arguments... arguments) {
  return std::make_shared<Kind>(std::move(arguments)...);
}

using Policies = std::vector<std::shared_ptr<Policy>>;
using Counts = std::vector<Count>;

void bind_plain_policies(py::module_& module) {
  const auto no_minimum = py::arg("minimum") = -std::numeric_limits<double>::infinity();
  module.def("Fixed", &make<Fixed>);
  module.def("Step", &make<Step, Count, double, double>, py::arg("period"), py::arg("gamma"),
             no_minimum);
  module.def("MultiStep", &make<MultiStep, Counts, double, double>, py::arg("milestones"),
             py::arg("gamma"), no_minimum);
  module.def("Exp", &make<Exp, double>, py::arg("gamma"));
  module.def("Inv", &make<Inv, double, double>, py::arg("gamma"), py::arg("power"));
  module.def("Poly", &make<Poly, double, double>, py::arg("power"), py::arg("end"));
  module.def(
      "Cyclic",
      [](double peak, double end, Count times, double up, const std::string& strategy,
         double gamma) { return make<Cyclic>(peak, end, times, up, to_strategy(strategy), gamma); },
      py::arg("peak"), py::arg("end"), py::arg("times"), py::arg("up"), py::arg("strategy"),
      py::arg("gamma"));
  module.def(
      "OneCycle",
      [](double pct_start, double peak, double end, const std::string& strategy, bool three_phase,
         Count total_steps) {
        return make<OneCycle>(pct_start, peak, end, to_strategy(strategy), three_phase,
                              total_steps);
      },
      py::arg("pct_start"), py::arg("peak"), py::arg("end"), py::arg("strategy"),
      py::arg("three_phase"), py::arg("total_steps") = 0);
  module.def(
      "Sequential",
      [](const Policies& policies, Counts milestones) {
        return make<Sequential>(std::vector<PolicyPtr>(policies.begin(), policies.end()),
                                milestones);
      },
      py::arg("policies"), py::arg("milestones"));
}

// `target` is where they anneal to: a value, or where `relative`, a fraction of the base value.
void bind_annealing_policies(py::module_& module) {
  const auto relative = py::arg("relative") = false;
  module.def(
      "CosineAnnealing",
      [](double target, bool relative) { return make<CosineAnnealing>(Target{target, relative}); },
      py::arg("target"), relative);
  module.def(
      "LinearAnnealing",
      [](double target, bool relative) { return make<LinearAnnealing>(Target{target, relative}); },
      py::arg("target"), relative);
  module.def(
      "FlatCosineAnnealing",
      [](double start_percent, double target, bool relative) {
        return make<FlatCosineAnnealing>(start_percent, Target{target, relative});
      },
      py::arg("start_percent"), py::arg("target"), relative);
  module.def(
      "CosineRestart",
      [](Counts periods, std::vector<double> weights, double target, bool relative) {
        return make<CosineRestart>(periods, weights, Target{target, relative});
      },
      py::arg("periods"), py::arg("weights"), py::arg("target"), relative);
  module.def(
      "WSD",
      [](Count decay_steps, double decay_ratio, const std::string& strategy, double target,
         bool relative) {
        return make<WSD>(decay_steps, decay_ratio, to_strategy(strategy), Target{target, relative});
      },
      py::arg("decay_steps"), py::arg("decay_ratio"), py::arg("strategy"), py::arg("target"),
      relative);
}

}  // namespace

void bind_schedule(py::module_& module) {
  auto policies = module.def_submodule("policies", "Schedules in C++.");
  py::class_<Policy, std::shared_ptr<Policy>>(policies, "Policy", kSealed, py::is_final())
      .def("__call__", &Policy::at, py::arg("base"), py::arg("step"), py::arg("total") = 0)
      // By reference: to a pointer, pybind11 gives None as null.
      .def_property_readonly("needs_total", [](const Policy& self) { return self.needs_total(); });
  bind_plain_policies(policies);
  bind_annealing_policies(policies);
  module.attr("Policy") = policies.attr("Policy");
  py::class_<Warmup>(module, "Warmup", kSealed, py::is_final())
      .def("factor", &Warmup::factor, py::arg("iteration"));
  module.def("make_warmup", &make_warmup, py::arg("kind"), py::arg("iters"), py::arg("ratio"));
  bind_group_schedule(module);
}

}  // namespace hookrun
