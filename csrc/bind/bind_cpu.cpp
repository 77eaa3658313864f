// The CPU backend of hookrun.ops. Each function checks everything before it writes anything. It
// returns its result, or None if it has none, once it is done; a text says why this backend cannot
// do it.
//
// `threads` 0 asks for the checks alone: the reference will do the work.
#include "bind_cpu.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "../cpu/ops.hpp"
#include "tensor_table.hpp"
#include "torch_tensors.hpp"

namespace hookrun {
namespace {

using Obstacle = std::optional<std::string>;

Obstacle obstacle_of(const TensorTable& table, int threads) {
  if (threads < 1) return "HOOKRUN_BACKEND=reference";
  return table.obstacle().empty() ? Obstacle() : table.obstacle();
}

// Runs the kernel without the GIL, unless there is an obstacle. The table keeps the tensors alive.
template <class Kernel>
Obstacle run(TensorTable& table, int threads, Kernel&& kernel) {
  if (Obstacle obstacle = obstacle_of(table, threads)) return obstacle;
  const cpu::TensorList list = table.list();
  py::gil_scoped_release released;
  kernel(list);
  return {};
}

// The norm and whether it is to be kept in fp64.
py::object norm(py::handle tensors, int threads) {
  TensorTable table("grad_norm", {{"tensors", tensors, kFloats}});
  double sum = 0.0;
  const Obstacle obstacle = run(table, threads, [&](const cpu::TensorList& list) {
    std::vector<double> partials(static_cast<std::size_t>(list.chunks()));
    sum = cpu::ops().sum_of_squares(list, partials.data(), threads);
  });
  if (obstacle) return py::str(*obstacle);
  const auto is_wide = [](const cpu::Row& row) { return row.dtype[0] == cpu::DType::kFloat64; };
  const bool wide = std::any_of(table.rows().begin(), table.rows().end(), is_wide);
  return py::make_tuple(std::sqrt(sum), wide);
}

py::object unscale(py::handle grads, double factor, int threads) {
  TensorTable table("unscale_", {{"grads", grads, kFloats, true}});
  bool finite = true;
  const Obstacle obstacle = run(table, threads, [&](const cpu::TensorList& list) {
    finite = cpu::ops().unscale(list, factor, threads);
  });
  if (obstacle) return py::str(*obstacle);
  return py::bool_(finite);
}

Obstacle ema_update(py::handle ema, py::handle params, double momentum, int threads) {
  TensorTable table("ema_update_",
                    {{"ema", ema, kFloats, true, false, true}, {"params", params, kFloats}});
  return run(table, threads, [&](const cpu::TensorList& list) {
    if (momentum != 0.0) cpu::ops().ema(list, momentum, threads);
  });
}

Obstacle swap(py::handle a, py::handle b, int threads) {
  TensorTable table("swap_",
                    {{"a", a, kAnyType, true, false, true}, {"b", b, kAnyType, true, false, true}});
  table.demand_pairs(kNoTypes);
  return run(table, threads, [&](const cpu::TensorList& list) { cpu::ops().swap(list, threads); });
}

Obstacle convert(py::handle to, py::handle from, int threads) {
  TensorTable table("convert_",
                    {{"dst", to, kAnyType, true, false, true}, {"src", from, kAnyType}});
  table.demand_pairs(kFloats);
  return run(table, threads,
             [&](const cpu::TensorList& list) { cpu::ops().convert(list, threads); });
}

void use_isa(const std::string& name) {
  if (!cpu::use_isa(name.empty() ? nullptr : name.c_str())) {
    throw py::value_error("this machine or build has no " + name + " kernels");
  }
}

// The rows of a group follow each other: how many there are, and what holds for them.
using SgdRows = std::tuple<std::size_t, double, double, double, double, bool, bool>;
using AdamRows = std::tuple<std::size_t, double, double, double, double, double, bool, bool>;

template <class Groups>
void number_groups(TensorTable& table, const Groups& groups) {
  std::size_t r = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t i = 0; i < std::get<0>(groups[g]); ++i) {
      if (r == table.rows().size())
        throw py::value_error("the groups count more rows than there are");
      table.rows()[r++].group = static_cast<std::int32_t>(g);
    }
  }
  if (r != table.rows().size()) throw py::value_error("the groups count fewer rows than there are");
}

// An average with momentum 0 stays as it is, also where the parameter is inf.
void leave_out(TensorTable& table, int column) {
  for (cpu::Row& row : table.rows()) row.address[column] = nullptr;
}

// Which dtypes go together in an optimizer's row: see with_step_types in csrc/cpu/chunks.hpp.
void demand_step_types(TensorTable& table, std::size_t copy, std::size_t ema) {
  using cpu::DType;
  for (std::size_t r = 0; r < table.rows().size() && table.obstacle().empty(); ++r) {
    const DType param = table.rows()[r].dtype[cpu::kParam];
    const bool is_float32 = param == DType::kFloat32;
    const bool is_float64 = param == DType::kFloat64;
    const unsigned same = only(param);
    table.demand(cpu::kGrad, r, is_float32 ? kNarrow : same);
    for (std::size_t state = cpu::kGrad + 1; state < copy; ++state) table.demand(state, r, same);
    table.demand(copy, r, is_float32 ? kNarrow : kNoTypes);
    table.demand(ema, r, is_float64 ? same : same | only(DType::kFloat32));
  }
}

Obstacle sgd(py::handle params, py::handle grads, py::handle momentums, py::handle copies,
             py::handle emas, const std::vector<bool>& fresh, const std::vector<SgdRows>& groups,
             double grad_scale, double ema_momentum, int threads) {
  TensorTable table("FusedStep", {{"params", params, kFloats, true},
                                  {"grads", grads, kFloats},
                                  {"momentum_buffers", momentums, kFloats, true, true},
                                  {"model_params", copies, kFloats, true, true},
                                  {"ema", emas, kFloats, true, true}});
  demand_step_types(table, cpu::kSgdCopy, cpu::kSgdEma);
  number_groups(table, groups);
  if (fresh.size() != table.rows().size()) throw py::value_error("one `fresh` per parameter");
  for (std::size_t r = 0; r < fresh.size(); ++r) table.rows()[r].fresh = fresh[r];
  if (ema_momentum == 0.0) leave_out(table, cpu::kSgdEma);
  std::vector<cpu::SgdGroup> options;
  for (const auto& [rows, lr, momentum, dampening, weight_decay, nesterov, maximize] : groups) {
    options.push_back({lr, momentum, dampening, weight_decay, nesterov, maximize});
  }
  const cpu::StepOptions step{grad_scale, ema_momentum};
  return run(table, threads, [&](const cpu::TensorList& list) {
    cpu::ops().sgd(list, options.data(), step, threads);
  });
}

// Counts the steps that the parameters take from now on, and derives what depends on them.
std::vector<cpu::AdamRow> count_steps(const TensorTable& steps, const TensorTable& table,
                                      const std::vector<AdamRows>& groups) {
  std::vector<cpu::AdamRow> rows;
  for (std::size_t r = 0; r < table.rows().size(); ++r) {
    const auto& [count, lr, beta1, beta2, eps, weight_decay, decoupled, maximize] =
        groups[static_cast<std::size_t>(table.rows()[r].group)];
    const cpu::Row& step = steps.rows()[r];
    const double t = step.dtype[0] == cpu::DType::kFloat64 ? *step.at<double>(0, 0) += 1.0
                                                           : *step.at<float>(0, 0) += 1.0f;
    rows.push_back({lr / (1.0 - std::pow(beta1, t)), 1.0 / std::sqrt(1.0 - std::pow(beta2, t))});
  }
  return rows;
}

Obstacle adam(py::handle params, py::handle grads, py::handle means, py::handle squares,
              py::handle step_counts, py::handle copies, py::handle emas,
              const std::vector<AdamRows>& groups, double grad_scale, double ema_momentum,
              int threads) {
  TensorTable table("FusedStep", {{"params", params, kFloats, true},
                                  {"grads", grads, kFloats},
                                  {"exp_avg", means, kFloats, true},
                                  {"exp_avg_sq", squares, kFloats, true},
                                  {"model_params", copies, kFloats, true, true},
                                  {"ema", emas, kFloats, true, true}});
  demand_step_types(table, cpu::kAdamCopy, cpu::kAdamEma);
  constexpr unsigned kCounters = only(cpu::DType::kFloat32) | only(cpu::DType::kFloat64);
  TensorTable steps("FusedStep", {{"step", step_counts, kCounters, true}});
  number_groups(table, groups);
  if (steps.rows().size() != table.rows().size()) throw py::value_error("one step per parameter");
  if (!steps.obstacle().empty()) table.set_obstacle(steps.obstacle());
  for (const cpu::Row& row : steps.rows()) {
    if (!steps.obstacle().empty()) break;  // what could not be read has no size
    if (row.numel != 1) throw py::value_error("a parameter's step is one number");
  }
  if (Obstacle obstacle = obstacle_of(table, threads)) return obstacle;
  if (ema_momentum == 0.0) leave_out(table, cpu::kAdamEma);
  std::vector<cpu::AdamGroup> options;
  for (const auto& [rows, lr, beta1, beta2, eps, weight_decay, decoupled, maximize] : groups) {
    options.push_back({1.0 - beta1, beta2, 1.0 - beta2, eps,
                       decoupled ? 1.0 - lr * weight_decay : 1.0, decoupled ? 0.0 : weight_decay,
                       maximize});
  }
  const std::vector<cpu::AdamRow> rows = count_steps(steps, table, groups);
  const cpu::StepOptions step{grad_scale, ema_momentum};
  return run(table, threads, [&](const cpu::TensorList& list) {
    cpu::ops().adam(list, options.data(), rows.data(), step, threads);
  });
}

}  // namespace

void bind_cpu(py::module_& module) {
  py::module_ cpu = module.def_submodule("cpu", "The CPU backend of hookrun.ops.");
  using namespace py::literals;
  cpu.def("norm", &norm, "tensors"_a, "threads"_a);
  cpu.def("unscale", &unscale, "grads"_a, "factor"_a, "threads"_a);
  cpu.def("ema_update", &ema_update, "ema"_a, "params"_a, "momentum"_a, "threads"_a);
  cpu.def("swap", &swap, "a"_a, "b"_a, "threads"_a);
  cpu.def("convert", &convert, "dst"_a, "src"_a, "threads"_a);
  cpu.def("sgd", &sgd);
  cpu.def("adam", &adam);
  cpu.def("isa", [] { return cpu::ops().name; }, "The instruction set in use.");
  cpu.def("use_isa", &use_isa, "name"_a);
  cpu.def(
      "tensor_reads",
      [] {
        const Torch& torch = Torch::get();
        return py::dict("flags"_a = torch.reads_flags(), "autograd"_a = torch.reads_autograd());
      },
      "What is read of a tensor's object itself, rather than asked of torch.");
}

}  // namespace hookrun
