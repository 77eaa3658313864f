// The CPU backend of hookrun.ops. Each function checks everything before it writes anything. Done,
// it returns its result, or None if it has none; a text is the reason why this backend cannot take
// the call, and then nothing has been written.
//
// `threads` 0 asks for the checks alone: another backend is forced.
#include "bind_cpu.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "../cpu/ops.hpp"
#include "adam_options.hpp"
#include "step_types.hpp"
#include "tensor_table.hpp"
#include "torch_tensors.hpp"

namespace hookrun {
namespace {

using UnsupportedReason = std::optional<std::string>;

UnsupportedReason reason_of(const TensorTable& table, int threads) {
  if (threads < 1) return "HOOKRUN_BACKEND=reference";
  return table.unsupported_reason().empty() ? UnsupportedReason() : table.unsupported_reason();
}

// Runs the kernel without the GIL, unless the table is unsupported.
template <class Kernel>
UnsupportedReason run(TensorTable& table, int threads, Kernel&& kernel) {
  if (UnsupportedReason reason = reason_of(table, threads)) return reason;
  const cpu::TensorList list = table.list();
  py::gil_scoped_release released;
  kernel(list);
  return {};
}

// The norm, and whether a tensor is fp64.
py::object norm(py::handle tensors, int threads) {
  TensorTable table("grad_norm", {{"tensors", tensors, kFloats}});
  double sum = 0.0;
  const UnsupportedReason reason = run(table, threads, [&](const cpu::TensorList& list) {
    std::vector<double> partials(static_cast<std::size_t>(list.chunks()));
    sum = cpu::ops().sum_of_squares(list, partials.data(), threads);
  });
  if (reason) return py::str(*reason);
  const auto is_wide = [](const cpu::Row& row) { return row.dtype[0] == cpu::DType::kFloat64; };
  const bool wide = std::any_of(table.rows().begin(), table.rows().end(), is_wide);
  return py::make_tuple(std::sqrt(sum), wide);
}

// Whether all elements were finite.
py::object unscale(py::handle grads, double factor, int threads) {
  TensorTable table("unscale_", {{"grads", grads, kFloats, kWrite}});
  bool finite = true;
  const UnsupportedReason reason = run(table, threads, [&](const cpu::TensorList& list) {
    finite = cpu::ops().unscale(list, factor, threads);
  });
  if (reason) return py::str(*reason);
  return py::bool_(finite);
}

UnsupportedReason ema_update(py::handle ema, py::handle params, double momentum, int threads) {
  TensorTable table("ema_update_",
                    {{"ema", ema, kFloats, kWrite | kUnrecorded}, {"params", params, kFloats}});
  return run(table, threads, [&](const cpu::TensorList& list) {
    if (momentum != 0.0) cpu::ops().ema(list, momentum, threads);
  });
}

UnsupportedReason swap(py::handle a, py::handle b, int threads) {
  TensorTable table("swap_", {{"a", a, kAnyType, kWrite | kUnrecorded},
                              {"b", b, kAnyType, kWrite | kUnrecorded}});
  table.require_pairs(kNoTypes);
  return run(table, threads, [&](const cpu::TensorList& list) { cpu::ops().swap(list, threads); });
}

UnsupportedReason convert(py::handle dst, py::handle src, int threads) {
  TensorTable table("convert_",
                    {{"dst", dst, kAnyType, kWrite | kUnrecorded}, {"src", src, kAnyType}});
  table.require_pairs(kFloats);
  return run(table, threads,
             [&](const cpu::TensorList& list) { cpu::ops().convert(list, threads); });
}

void use_isa(const std::string& name) {
  if (!cpu::use_isa(name.empty() ? nullptr : name.c_str())) {
    throw py::value_error("this machine or build has no " + name + " kernels");
  }
}

// A field of a NamedTuple, read by its name.
class Field {
 public:
  explicit Field(const char* name) : name_(PyUnicode_InternFromString(name)) {}

  double number(py::handle tuple) const {
    const py::object value = steal(PyObject_GetAttr(tuple.ptr(), name_));
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    return number;
  }

  bool flag(py::handle tuple) const {
    const int truth = PyObject_IsTrue(steal(PyObject_GetAttr(tuple.ptr(), name_)).ptr());
    if (truth < 0) throw py::error_already_set();
    return truth != 0;
  }

  std::size_t count(py::handle tuple) const {
    const py::object value = steal(PyObject_GetAttr(tuple.ptr(), name_));
    const std::size_t count = PyLong_AsSize_t(value.ptr());
    if (count == static_cast<std::size_t>(-1) && PyErr_Occurred()) throw py::error_already_set();
    return count;
  }

 private:
  PyObject* name_;  // for the life of the process
};

// The options of an optimizer's group, and how many rows, one after the other, it has in the table.
struct SgdRows {
  std::size_t count;
  cpu::SgdGroup options;

  // Reads kernels/reference/sgd.py's SgdGroup.
  static SgdRows read(py::handle group) {
    static const Field count("count"), lr("lr"), momentum("momentum"), dampening("dampening"),
        weight_decay("weight_decay"), nesterov("nesterov"), maximize("maximize");
    SgdRows rows;
    rows.count = count.count(group);
    rows.options.lr = lr.number(group);
    rows.options.momentum = momentum.number(group);
    rows.options.dampening = dampening.number(group);
    rows.options.weight_decay = weight_decay.number(group);
    rows.options.nesterov = nesterov.flag(group);
    rows.options.maximize = maximize.flag(group);
    return rows;
  }
};

struct AdamRows {
  std::size_t count;
  double lr, beta1, beta2;
  cpu::AdamGroup options;

  // Reads kernels/reference/adam.py's AdamGroup.
  static AdamRows read(py::handle group) {
    static const Field count("count"), lr("lr"), beta1("beta1"), beta2("beta2"), eps("eps"),
        weight_decay("weight_decay"), decoupled("decoupled"), maximize("maximize");
    AdamRows rows;
    rows.count = count.count(group);
    rows.lr = lr.number(group);
    rows.beta1 = beta1.number(group);
    rows.beta2 = beta2.number(group);
    rows.options =
        adam_group(rows.lr, rows.beta1, rows.beta2, eps.number(group), weight_decay.number(group),
                   decoupled.flag(group), maximize.flag(group));
    return rows;
  }
};

// Reads the groups, and notes in each row of the table which one is its.
template <class Rows>
std::vector<Rows> read_groups(py::handle groups, TensorTable& table) {
  const py::object list = steal(PySequence_Tuple(groups.ptr()));
  std::vector<Rows> read;
  std::size_t r = 0;
  for (py::handle group : py::reinterpret_borrow<py::tuple>(list)) {
    read.push_back(Rows::read(group));
    if (read.back().count > table.rows().size() - r)
      throw py::value_error("the groups count more rows than there are");
    for (std::size_t i = 0; i < read.back().count; ++i)
      table.rows()[r++].group = static_cast<std::int32_t>(read.size() - 1);
  }
  if (r != table.rows().size()) throw py::value_error("the groups count fewer rows than there are");
  return read;
}

template <class Rows>
auto options_of(const std::vector<Rows>& groups) {
  std::vector<decltype(Rows::options)> options;
  for (const Rows& group : groups) options.push_back(group.options);
  return options;
}

// Takes a column of averages out: with momentum 0 they stay as they are, also where the parameter
// is inf.
void leave_out(TensorTable& table, int column) {
  for (cpu::Row& row : table.rows()) row.address[column] = nullptr;
}

void require_step_types(TensorTable& table, std::size_t copy, std::size_t ema) {
  for (std::size_t r = 0; r < table.rows().size() && table.unsupported_reason().empty(); ++r) {
    const cpu::DType param = table.rows()[r].dtype[cpu::kParam];
    for (std::size_t c = cpu::kGrad; c <= ema; ++c) {
      table.require(c, r, step_types(param, c, copy, ema));
    }
  }
}

UnsupportedReason sgd(py::handle params, py::handle grads, py::handle momentum_buffers,
                      py::handle model_params, py::handle ema, const std::vector<bool>& is_new,
                      py::handle groups, double grad_scale, double ema_momentum, int threads) {
  TensorTable table("FusedStep",
                    {{"params", params, kFloats, kWrite},
                     {"grads", grads, kFloats},
                     {"momentum_buffers", momentum_buffers, kFloats, kWrite | kOptional},
                     {"model_params", model_params, kFloats, kWrite | kOptional},
                     {"ema", ema, kFloats, kWrite | kOptional}});
  require_step_types(table, cpu::kSgdCopy, cpu::kSgdEma);
  const auto options = options_of(read_groups<SgdRows>(groups, table));
  if (is_new.size() != table.rows().size()) throw py::value_error("one `is_new` per parameter");
  for (std::size_t r = 0; r < is_new.size(); ++r) table.rows()[r].is_new = is_new[r];
  if (ema_momentum == 0.0) leave_out(table, cpu::kSgdEma);
  const cpu::StepOptions step{grad_scale, ema_momentum};
  return run(table, threads, [&](const cpu::TensorList& list) {
    cpu::ops().sgd(list, options.data(), step, threads);
  });
}

// Counts the step that each parameter now takes, and derives its bias corrections.
std::vector<cpu::AdamBiasCorrections> count_steps(const TensorTable& steps,
                                                  const TensorTable& table,
                                                  const std::vector<AdamRows>& groups) {
  std::vector<cpu::AdamBiasCorrections> corrections;
  corrections.reserve(table.rows().size());
  for (std::size_t r = 0; r < table.rows().size(); ++r) {
    const AdamRows& group = groups[static_cast<std::size_t>(table.rows()[r].group)];
    const cpu::Row& step = steps.rows()[r];
    const double t = step.dtype[0] == cpu::DType::kFloat64 ? *step.at<double>(0, 0) += 1.0
                                                           : *step.at<float>(0, 0) += 1.0f;
    corrections.push_back(adam_bias_corrections(group.lr, group.beta1, group.beta2, t));
  }
  return corrections;
}

// The step counts are another table: they have one element, whatever their parameters have.
void check_step_counts(const TensorTable& steps, TensorTable& table) {
  if (steps.rows().size() != table.rows().size()) throw py::value_error("one step per parameter");
  if (!steps.unsupported_reason().empty()) {
    table.set_unsupported(steps.unsupported_reason());
    return;  // what could not be read has no size
  }
  for (const cpu::Row& row : steps.rows()) {
    if (row.numel != 1) throw py::value_error("a parameter's step is one number");
  }
}

UnsupportedReason adam(py::handle params, py::handle grads, py::handle exp_avgs,
                       py::handle exp_avg_sqs, py::handle steps, py::handle model_params,
                       py::handle ema, py::handle groups, double grad_scale, double ema_momentum,
                       int threads) {
  TensorTable table("FusedStep", {{"params", params, kFloats, kWrite},
                                  {"grads", grads, kFloats},
                                  {"exp_avg", exp_avgs, kFloats, kWrite},
                                  {"exp_avg_sq", exp_avg_sqs, kFloats, kWrite},
                                  {"model_params", model_params, kFloats, kWrite | kOptional},
                                  {"ema", ema, kFloats, kWrite | kOptional}});
  require_step_types(table, cpu::kAdamCopy, cpu::kAdamEma);
  constexpr unsigned kCounts = only(cpu::DType::kFloat32) | only(cpu::DType::kFloat64);
  const TensorTable step_counts("FusedStep", {{"step", steps, kCounts, kWrite}});
  const std::vector<AdamRows> rows = read_groups<AdamRows>(groups, table);
  check_step_counts(step_counts, table);
  if (UnsupportedReason reason = reason_of(table, threads)) return reason;
  if (ema_momentum == 0.0) leave_out(table, cpu::kAdamEma);
  const auto options = options_of(rows);
  const std::vector<cpu::AdamBiasCorrections> corrections = count_steps(step_counts, table, rows);
  const cpu::StepOptions step{grad_scale, ema_momentum};
  return run(table, threads, [&](const cpu::TensorList& list) {
    cpu::ops().adam(list, options.data(), corrections.data(), step, threads);
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
  cpu.def("sgd", &sgd, "params"_a, "grads"_a, "momentum_buffers"_a, "model_params"_a, "ema"_a,
          "is_new"_a, "groups"_a, "grad_scale"_a, "ema_momentum"_a, "threads"_a);
  cpu.def("adam", &adam, "params"_a, "grads"_a, "exp_avgs"_a, "exp_avg_sqs"_a, "steps"_a,
          "model_params"_a, "ema"_a, "groups"_a, "grad_scale"_a, "ema_momentum"_a, "threads"_a);
  cpu.def("isa", [] { return cpu::ops().name; }, "The instruction set in use.");
  cpu.def("use_isa", &use_isa, "name"_a);
  cpu.def(
      "getenv",
      [](const std::string& name) {
        const char* value = std::getenv(name.c_str());
        return value == nullptr ? py::object(py::none()) : steal(PyUnicode_DecodeFSDefault(value));
      },
      "name"_a, "An environment variable, or None; `os.environ.get` takes ten times as long.");
  cpu.def(
      "tensor_reads",
      [] {
        const Torch& torch = Torch::get();
        return py::dict("flags"_a = torch.reads_flags(), "autograd"_a = torch.reads_autograd(),
                        "fingerprints"_a = torch.has_fingerprints(),
                        "versions"_a = torch.finds_versions(),
                        "gradients"_a = torch.reads_gradients());
      },
      "What is read of a tensor's object itself, rather than asked of torch.");
}

}  // namespace hookrun
