// GroupSchedule: sets the learning rate or the momentum of every parameter group at each iteration.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "../core/schedule.hpp"
#include "action.hpp"
#include "schedule.hpp"

namespace hookrun {
namespace {

using namespace schedule;

struct Keys {
  PyObject* lr = PyUnicode_InternFromString("lr");
  PyObject* momentum = PyUnicode_InternFromString("momentum");
  PyObject* betas = PyUnicode_InternFromString("betas");
  PyObject* fill = PyUnicode_InternFromString("fill_");
  PyObject* param_groups = PyUnicode_InternFromString("param_groups");

  static const Keys& get() {
    static const Keys keys;
    return keys;
  }
};

// What stands in the place of `old`: a new float, or the same tensor filled, which needs no host
// sync.
py::object renewed(const py::object& old, double value) {
  py::object number = steal(PyFloat_FromDouble(value));
  if (PyFloat_Check(old.ptr()) || PyLong_Check(old.ptr())) return number;
  const auto fill =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(old.ptr(), Keys::get().fill));
  if (!fill) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
    PyErr_Clear();
    return number;
  }
  steal(PyObject_CallOneArg(fill.ptr(), number.ptr()));
  return old;
}

void assign(PyObject* dict, PyObject* key, const py::object& value) {
  if (PyDict_SetItem(dict, key, value.ptr()) < 0) throw py::error_already_set();
}

// Whether to change a float in place where nothing can tell that from a new float: where only the
// group and our caller refer to it. A new one costs a second look into the dict of the group: a
// third to two thirds more for the whole step of a schedule (benchmarks/bench_schedules.py).
class FloatReuse {
 public:
  // HOOKRUN_FLOATS=new chooses new floats.
  FloatReuse() {
    const char* floats = std::getenv("HOOKRUN_FLOATS");
    allowed_ = floats == nullptr || std::string_view(floats) != "new";
#ifdef Py_GIL_DISABLED
    allowed_ = false;  // another thread may be about to refer to it
#endif
  }

  bool applies_to(const py::object& number) const {
    return allowed_ && PyFloat_CheckExact(number.ptr()) && Py_REFCNT(number.ptr()) == 2;
  }

 private:
  bool allowed_;
};

void write_number(PyObject* group, PyObject* key, const py::object& old, double value,
                  const FloatReuse& reuse) {
  if (reuse.applies_to(old)) {
    reinterpret_cast<PyFloatObject*>(old.ptr())->ob_fval = value;
  } else {
    assign(group, key, renewed(old, value));
  }
}

void write_lr(PyObject* group, double value, const FloatReuse& reuse) {
  PyObject* key = Keys::get().lr;
  if (const py::object old = find_item(group, key)) {
    write_number(group, key, old, value, reuse);
  } else {
    assign(group, key, py::float_(value));
  }
}

void write_momentum(PyObject* group, double value, const FloatReuse& reuse) {
  const Keys& keys = Keys::get();
  if (const py::object old = find_item(group, keys.momentum)) {
    write_number(group, keys.momentum, old, value, reuse);
  } else if (const py::object betas = find_item(group, keys.betas)) {
    const auto old_betas = steal(PySequence_Tuple(betas.ptr()));
    if (PyTuple_GET_SIZE(old_betas.ptr()) == 0) throw py::value_error("a group's betas are empty");
    const auto first = py::make_tuple(renewed(borrow(PyTuple_GET_ITEM(old_betas.ptr(), 0)), value));
    const auto rest = steal(PyTuple_GetSlice(old_betas.ptr(), 1, PY_SSIZE_T_MAX));
    assign(group, keys.betas, steal(PySequence_Concat(first.ptr(), rest.ptr())));
  }
}

py::list as_list(const py::object& object, const char* what) {
  if (!PyList_Check(object.ptr())) throw py::type_error(std::string(what) + " must be a list");
  return py::reinterpret_borrow<py::list>(object);
}

// The compiled schedule of one optimizer.
class OptimizerPart {
 public:
  // `name` is null for the only optimizer.
  OptimizerPart(py::object name, const py::object& groups, const py::object& base,
                const py::object& policies)
      : name_(std::move(name)),
        groups_(as_list(groups, "groups")),
        base_(as_list(base, "base values")) {
    for (const auto& policy : py::cast<std::vector<std::shared_ptr<Policy>>>(policies)) {
      if (!policy) throw py::type_error("None is no policy");
      policies_.push_back(policy);
    }
    if (policies_.empty()) throw py::value_error("there must be a policy");
  }

  const py::object& name() const { return name_; }
  const std::vector<PolicyPtr>& policies() const { return policies_; }
  const std::vector<double>& latest() const { return latest_; }

  // Those that the optimizer has now: load_state_dict() replaces the list.
  py::list current_groups(const py::object& optimizers) const {
    const auto optimizer = name_ ? py::object(optimizers[name_]) : optimizers;
    return as_list(steal(PyObject_GetAttr(optimizer.ptr(), Keys::get().param_groups)),
                   "optimizer.param_groups");
  }

  // Whether no group was added, taken out or replaced.
  bool has_groups(const py::list& now) const {
    const Py_ssize_t size = PyList_GET_SIZE(now.ptr());
    if (size != PyList_GET_SIZE(groups_.ptr())) return false;
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (PyList_GET_ITEM(now.ptr(), i) != PyList_GET_ITEM(groups_.ptr(), i)) return false;
    }
    return true;
  }

  // Computes `latest`. Where `zero_stays`, a value that begins with 0 is 0 whatever the policy.
  void compute(Count step, Count total, bool zero_stays) {
    std::vector<double> values = std::move(spare_);
    values.clear();
    std::vector<std::size_t> zeros;  // allocates only where there are some
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(base_.ptr()); ++i) {
      const py::object number = borrow(PyList_GET_ITEM(base_.ptr(), i));
      const double value = PyFloat_AsDouble(number.ptr());
      if (value == -1.0 && PyErr_Occurred()) throw py::error_already_set();
      if (zero_stays && value == 0.0) zeros.push_back(values.size());
      values.push_back(value);
    }
    if (policies_.size() == 1) {
      policies_.front()->apply(values.data(), values.size(), step, total);
    } else {
      for (std::size_t i = 0; i < std::min(policies_.size(), values.size()); ++i) {
        policies_[i]->apply(&values[i], 1, step, total);
      }
    }
    for (const std::size_t i : zeros) values[i] = 0.0;
    latest_.swap(values);
    spare_ = std::move(values);
  }

 private:
  py::object name_;
  py::list groups_;                  // those that `base_` has the values of
  py::list base_;                    // one value per parameter group
  std::vector<PolicyPtr> policies_;  // one per parameter group, or one for all
  std::vector<double> latest_;       // the values of the latest step without warm-up
  std::vector<double> spare_;        // memory for the next, so that none is allocated
};

// What one call of compile() made.
struct Compiled {
  std::vector<OptimizerPart> parts;
  bool by_epoch;
  Warmup warmup;
  Count skipped_iters;
  bool needs_total = false, spans_run = false;
  bool ran = false;

  // Iterations that warm-up counts.
  Count trained(const Counters& counters) const {
    return counters.iter + counters.uncounted_iters - skipped_iters;
  }

  Count step(const Counters& counters) const {
    if (by_epoch) return counters.epoch;
    return (spans_run ? counters.schedule_step() : counters.iter) - skipped_iters;
  }

  // Throws ValueError where the policies need it and it is not known.
  Count total(const Counters& counters) const {
    const Count total = by_epoch    ? counters.max_epochs
                        : spans_run ? counters.schedule_total()
                                    : counters.max_iters;
    if (total == Counters::kUnknown && needs_total) {
      throw py::value_error(std::string("the schedule needs the length of the run, but ") +
                            (by_epoch ? "max_epochs" : "max_iters") + " is None");
    }
    return total;
  }

  bool has_optimizers(const py::object& optimizers) const {
    return !PyDict_Check(optimizers.ptr()) ||
           PyDict_GET_SIZE(optimizers.ptr()) == static_cast<Py_ssize_t>(parts.size());
  }
};

class GroupSchedule {
 public:
  GroupSchedule(const std::string& value, py::object python_step)
      : is_lr_(value == "lr"), python_step_(std::move(python_step)) {
    if (!is_lr_ && value != "momentum") throw py::value_error("value is 'lr' or 'momentum'");
  }

  void compile(const py::object& groups, const py::object& base, const py::object& policies,
               bool by_epoch, const Warmup* warmup, Count skipped_iters) {
    auto compiled = std::make_shared<Compiled>();
    if (py::isinstance<py::dict>(base)) {
      for (auto [name, values] : py::reinterpret_borrow<py::dict>(base)) {
        compiled->parts.emplace_back(borrow(name.ptr()), py::object(groups[name]),
                                     borrow(values.ptr()), py::object(policies[name]));
      }
    } else {
      compiled->parts.emplace_back(py::object(), groups, base, policies);
    }
    for (const OptimizerPart& part : compiled->parts) {
      for (const PolicyPtr& policy : part.policies()) {
        compiled->needs_total = compiled->needs_total || policy->needs_total();
        compiled->spans_run = compiled->spans_run || policy->spans_run();
      }
    }
    compiled->by_epoch = by_epoch;
    compiled->warmup = warmup ? *warmup : Warmup();
    compiled->skipped_iters = skipped_iters;
    compiled_ = std::move(compiled);
  }

  void clear() { compiled_ = nullptr; }

  // The values of the latest step without warm-up, in the form of the base values; None where no
  // step was taken since compile().
  py::object regular() const {
    const auto compiled = compiled_;
    if (!compiled || !compiled->ran) return py::none();
    py::dict by_name;
    for (const OptimizerPart& part : compiled->parts) {
      if (!part.name()) return py::cast(part.latest());
      by_name[part.name()] = py::cast(part.latest());
    }
    return by_name;
  }

  // Before an iteration. By epoch the hook's before_train_epoch sets the values: at iterations
  // there is warm-up, and once an epoch a look whether the groups are still the same.
  void take_step(RunState* state) {
    const auto compiled = compiled_;  // held: a tensor's fill_ may run any Python
    if (!compiled) return step_in_python(state);
    const Counters& counters = state->counters;
    const Warmup& warmup = compiled->warmup;
    const Count trained = compiled->trained(counters);
    const bool due =
        !compiled->by_epoch || (warmup.kind != Warmup::Kind::kNone && trained <= warmup.iters);
    const bool look = !compiled->by_epoch || counters.inner_iter == 0;
    if (!due && !look) return;
    const Count step = compiled->step(counters);
    const Count total = due ? compiled->total(counters) : 0;
    const double factor = warmup.factor(trained);
    if (state->optimizer == nullptr) throw py::attribute_error("the runner has no optimizer");
    const py::object optimizers = borrow(state->optimizer);
    if (look && !compiled->has_optimizers(optimizers)) return step_in_python(state);
    for (OptimizerPart& part : compiled->parts) {
      const py::list groups = part.current_groups(optimizers);
      if (look && !part.has_groups(groups)) return step_in_python(state);
      if (!due) continue;
      part.compute(step, total, is_lr_);
      write(groups, part, factor);
    }
    compiled->ran = compiled->ran || due;
  }

 private:
  void write(const py::list& groups, const OptimizerPart& part, double factor) const {
    for (std::size_t i = 0; i < part.latest().size(); ++i) {
      if (static_cast<Py_ssize_t>(i) >= PyList_GET_SIZE(groups.ptr())) break;
      const py::object group = borrow(PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i)));
      if (!PyDict_Check(group.ptr())) throw py::type_error("a parameter group must be a dict");
      if (is_lr_) {
        write_lr(group.ptr(), part.latest()[i] * factor, float_reuse_);
      } else {
        write_momentum(group.ptr(), part.latest()[i] / factor, float_reuse_);
      }
    }
  }

  void step_in_python(RunState* state) const {
    const py::object step = steal(PyObject_CallNoArgs(python_step_.ptr()));
    if (step.is_none()) return;
    steal(PyObject_CallOneArg(step.ptr(), reinterpret_cast<PyObject*>(state)));
  }

  bool is_lr_;
  FloatReuse float_reuse_;
  py::object python_step_;
  std::shared_ptr<Compiled> compiled_;
};

class ScheduleAction : public Action {
 public:
  explicit ScheduleAction(std::shared_ptr<GroupSchedule> schedule)
      : schedule_(std::move(schedule)) {}

  bool run(RunState* state) override {
    return guarded<>(false, [&] {
      schedule_->take_step(state);
      return true;
    });
  }

 private:
  std::shared_ptr<GroupSchedule> schedule_;
};

}  // namespace

void bind_group_schedule(py::module_& module) {
  // Methods without named arguments take their object by reference: to a pointer, pybind11 gives
  // None as null.
  py::class_<GroupSchedule, std::shared_ptr<GroupSchedule>>(module, "GroupSchedule", kSealed,
                                                            py::is_final())
      .def("compile", &GroupSchedule::compile, py::arg("groups"), py::arg("base"),
           py::arg("policies"), py::arg("by_epoch"), py::arg("warmup"), py::arg("skipped_iters"))
      .def("clear", [](GroupSchedule& self) { self.clear(); })
      .def("regular", [](const GroupSchedule& self) { return self.regular(); })
      .def("action", [](std::shared_ptr<GroupSchedule> self) {
        if (!self) throw py::type_error("None is no schedule");
        return make_action(std::make_unique<ScheduleAction>(std::move(self)));
      });
  module.def(
      "make_group_schedule",
      [](const std::string& value, py::object python_step) {
        return std::make_shared<GroupSchedule>(value, std::move(python_step));
      },
      py::arg("value"), py::arg("python_step"));
}

}  // namespace hookrun
