// Schedules in Python: the policies, and the action that sets a value of every parameter group.
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
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
  PyObject* before_train_iter = PyUnicode_InternFromString("before_train_iter");

  static const Keys& get() {
    static const Keys keys;
    return keys;
  }
};

// Whether `number` is a float that only a group and the caller see, so that changing it in place is
// as good as replacing it, at a third of the cost.
bool is_own_float(const py::object& number) {
  return PyFloat_CheckExact(number.ptr()) && Py_REFCNT(number.ptr()) == 2;
}

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

void write_number(PyObject* group, PyObject* key, const py::object& old, double value) {
  if (is_own_float(old)) {
    reinterpret_cast<PyFloatObject*>(old.ptr())->ob_fval = value;
  } else {
    assign(group, key, renewed(old, value));
  }
}

void write_lr(PyObject* group, double value) {
  PyObject* key = Keys::get().lr;
  if (const py::object old = find_item(group, key)) {
    write_number(group, key, old, value);
  } else {
    assign(group, key, py::float_(value));
  }
}

void write_momentum(PyObject* group, double value) {
  const Keys& keys = Keys::get();
  if (const py::object old = find_item(group, keys.momentum)) {
    write_number(group, keys.momentum, old, value);
  } else if (const py::object betas = find_item(group, keys.betas)) {
    const auto old_betas = steal(PySequence_Tuple(betas.ptr()));
    if (PyTuple_GET_SIZE(old_betas.ptr()) == 0) throw py::value_error("a group's betas are empty");
    const auto first = py::make_tuple(renewed(borrow(PyTuple_GET_ITEM(old_betas.ptr(), 0)), value));
    const auto rest = steal(PyTuple_GetSlice(old_betas.ptr(), 1, PY_SSIZE_T_MAX));
    assign(group, keys.betas, steal(PySequence_Concat(first.ptr(), rest.ptr())));
  }
}

// A schedule over the parameter groups of one optimizer, or of several by name. The base values
// stay the hook's own lists, so that a change to them takes effect. Where the groups are no longer
// those that the values are of, the hook's before_train_iter takes the step in place of this; by
// epoch that is looked at once an epoch. A learning rate that begins with 0 stays at 0.
class GroupSchedule {
 public:
  explicit GroupSchedule(const std::string& value) : is_lr_(value == "lr") {
    if (!is_lr_ && value != "momentum") throw py::value_error("value is 'lr' or 'momentum'");
  }

  // `hook` is a weak reference, and `groups` has the form of `base`: the groups, or None for any.
  void configure(py::object hook, const py::object& groups, const py::object& base,
                 const py::object& policies, bool by_epoch, const Warmup* warmup) {
    std::vector<OptimizerPart> parts;
    if (py::isinstance<py::dict>(base)) {
      for (auto [name, values] : py::reinterpret_borrow<py::dict>(base)) {
        const py::object known = groups.is_none() ? groups : py::object(groups[name]);
        parts.push_back(make_part(borrow(name.ptr()), known, values, policies[name]));
      }
    } else {
      parts.push_back(make_part(py::object(), groups, base, policies));
    }
    hook_ = std::move(hook);
    parts_ = std::make_shared<std::vector<OptimizerPart>>(std::move(parts));
    needs_total_ = any_policy([](const Policy& policy) { return policy.needs_total(); });
    spans_run_ = any_policy([](const Policy& policy) { return policy.spans_run(); });
    by_epoch_ = by_epoch;
    warmup_ = warmup ? *warmup : Warmup();
  }

  void set_values(RunState* state) {
    const Counters& counters = state->counters;
    // By epoch the hook's before_train_epoch sets the values; warm-up alone goes by iteration.
    const Count trained = counters.iter + counters.uncounted_iters;
    const bool due =
        !by_epoch_ || (warmup_.kind != Warmup::Kind::kNone && trained <= warmup_.iters);
    const bool look = !by_epoch_ || counters.inner_iter == 0;
    if (!due && !look) return;
    if (due) {
      step_ = by_epoch_ ? counters.epoch : spans_run_ ? counters.schedule_step() : counters.iter;
      total_ = by_epoch_    ? counters.max_epochs
               : spans_run_ ? counters.schedule_total()
                            : counters.max_iters;
      if (total_ == Counters::kUnknown && needs_total_) {
        throw py::value_error(std::string("the schedule needs the length of the run, but ") +
                              (by_epoch_ ? "max_epochs" : "max_iters") + " is None");
      }
    }
    const double factor = warmup_.factor(trained);
    if (state->optimizer == nullptr) throw py::attribute_error("the runner has no optimizer");
    const py::object optimizers = borrow(state->optimizer);
    const auto parts = parts_;  // held: odd optimizers may configure the hook meanwhile
    if (look && has_new_optimizer(optimizers, *parts)) return leave_to_hook(state);
    for (OptimizerPart& part : *parts) {
      const py::list groups = groups_of(part.name ? py::object(optimizers[part.name]) : optimizers);
      if (look && !part.is_of(groups)) return leave_to_hook(state);
      if (due) set_groups(groups, part, factor);
    }
    ran_ = ran_ || due;
  }

  // The values of the latest step without warm-up, in the form of the base values; None before.
  py::object regular() {
    if (!ran_) return py::none();
    py::dict by_name;
    const auto parts = parts_;
    for (OptimizerPart& part : *parts) {
      std::vector<double> values;
      part.regular(step_, total_, is_lr_, values);
      if (!part.name) return py::cast(values);
      by_name[part.name] = py::cast(values);
    }
    return by_name;
  }

 private:
  struct OptimizerPart {
    py::object name;                  // null for the only optimizer
    py::object groups;                // a list of those that `base` has the values of; None: any
    py::list base;                    // one value per parameter group
    std::vector<PolicyPtr> policies;  // one per parameter group, or one for all
    std::vector<double> memory = {};  // for the values of a step, so that none is allocated

    // Whether no group was added, taken out or replaced.
    bool is_of(const py::list& now) const {
      if (groups.is_none()) return true;
      const Py_ssize_t size = PyList_GET_SIZE(now.ptr());
      if (size != PyList_GET_SIZE(groups.ptr())) return false;
      for (Py_ssize_t i = 0; i < size; ++i) {
        if (PyList_GET_ITEM(now.ptr(), i) != PyList_GET_ITEM(groups.ptr(), i)) return false;
      }
      return true;
    }

    // Into `values`, which is the caller's own: what writes them may ask for them anew meanwhile.
    // Where `zero_stays`, a value that begins with 0 is 0 whatever the policy.
    void regular(Count step, Count total, bool zero_stays, std::vector<double>& values) const {
      values.clear();
      std::vector<std::size_t> zeros;  // allocates only where there are some
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(base.ptr()); ++i) {
        const py::object number = borrow(PyList_GET_ITEM(base.ptr(), i));
        const double value = PyFloat_AsDouble(number.ptr());
        if (value == -1.0 && PyErr_Occurred()) throw py::error_already_set();
        if (zero_stays && value == 0.0) zeros.push_back(values.size());
        values.push_back(value);
      }
      if (policies.size() == 1) {
        policies.front()->apply(values.data(), values.size(), step, total);
      } else {
        for (std::size_t i = 0; i < std::min(policies.size(), values.size()); ++i) {
          policies[i]->apply(&values[i], 1, step, total);
        }
      }
      for (const std::size_t i : zeros) values[i] = 0.0;
    }
  };

  static OptimizerPart make_part(py::object name, py::object groups, py::handle base,
                                 const py::object& policies) {
    if (!PyList_Check(base.ptr())) throw py::type_error("base values must be a list");
    if (!groups.is_none() && !PyList_Check(groups.ptr())) {
      throw py::type_error("groups must be a list");
    }
    OptimizerPart part{
        std::move(name), std::move(groups), py::reinterpret_borrow<py::list>(base), {}};
    for (const auto& policy : py::cast<std::vector<std::shared_ptr<Policy>>>(policies)) {
      if (!policy) throw py::type_error("None is no policy");
      part.policies.push_back(policy);
    }
    if (part.policies.empty()) throw py::value_error("there must be a policy");
    return part;
  }

  template <class Test>
  bool any_policy(Test test) const {
    return std::any_of(parts_->begin(), parts_->end(), [&](const OptimizerPart& part) {
      return std::any_of(part.policies.begin(), part.policies.end(),
                         [&](const PolicyPtr& policy) { return test(*policy); });
    });
  }

  static py::list groups_of(const py::object& optimizer) {
    py::object groups = steal(PyObject_GetAttr(optimizer.ptr(), Keys::get().param_groups));
    if (!PyList_Check(groups.ptr())) throw py::type_error("optimizer.param_groups must be a list");
    return py::reinterpret_steal<py::list>(groups.release());
  }

  static bool has_new_optimizer(const py::object& optimizers,
                                const std::vector<OptimizerPart>& parts) {
    return PyDict_Check(optimizers.ptr()) && !parts.empty() && !parts.front().groups.is_none() &&
           PyDict_GET_SIZE(optimizers.ptr()) != static_cast<Py_ssize_t>(parts.size());
  }

  void leave_to_hook(RunState* state) const {
    const py::object hook = hook_();
    if (hook.is_none()) return;
    steal(PyObject_CallMethodOneArg(hook.ptr(), Keys::get().before_train_iter,
                                    reinterpret_cast<PyObject*>(state)));
  }

  // The groups are read anew each time: load_state_dict() of an optimizer replaces them.
  void set_groups(const py::list& groups, OptimizerPart& part, double factor) const {
    std::vector<double> values = std::move(part.memory);
    part.regular(step_, total_, is_lr_, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (static_cast<Py_ssize_t>(i) >= PyList_GET_SIZE(groups.ptr())) break;
      const py::object group = borrow(PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i)));
      if (!PyDict_Check(group.ptr())) throw py::type_error("a parameter group must be a dict");
      if (is_lr_) {
        write_lr(group.ptr(), values[i] * factor);
      } else {
        write_momentum(group.ptr(), values[i] / factor);
      }
    }
    part.memory = std::move(values);
  }

  bool is_lr_;
  py::object hook_;
  std::shared_ptr<std::vector<OptimizerPart>> parts_ =
      std::make_shared<std::vector<OptimizerPart>>();
  bool by_epoch_ = false;
  bool needs_total_ = false, spans_run_ = false;
  Warmup warmup_;
  // Of the latest step.
  bool ran_ = false;
  Count step_ = 0, total_ = 0;
};

class ScheduleAction : public Action {
 public:
  explicit ScheduleAction(std::shared_ptr<GroupSchedule> schedule)
      : schedule_(std::move(schedule)) {}

  bool run(RunState* state) override {
    return guarded<>(false, [&] {
      schedule_->set_values(state);
      return true;
    });
  }

 private:
  std::shared_ptr<GroupSchedule> schedule_;
};

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

using TargetArg = std::pair<double, bool>;

Target to_target(const TargetArg& target) { return {target.first, target.second}; }

// A method without named arguments takes its object by reference below: to a pointer, pybind11
// gives None as null.

// Types whose objects come from functions only: of `cls.__new__(cls)` there would be an object that
// no constructor has seen.
const auto kSealed = py::custom_type_setup([](PyHeapTypeObject* type) {
  type->ht_type.tp_flags |= Py_TPFLAGS_DISALLOW_INSTANTIATION;
  type->ht_type.tp_new = nullptr;
});

template <class Kind, class... Arguments>
std::shared_ptr<Policy> make(Arguments... arguments) {
  return std::make_shared<Kind>(std::move(arguments)...);
}

using Policies = std::vector<std::shared_ptr<Policy>>;

void bind_policies(py::module_& module) {
  py::class_<Policy, std::shared_ptr<Policy>>(module, "Policy", kSealed, py::is_final())
      .def("__call__", &Policy::at, py::arg("base"), py::arg("step"), py::arg("total") = 0)
      .def_property_readonly("needs_total", [](const Policy& self) { return self.needs_total(); });
  module.def("Fixed", &make<Fixed>);
  module.def("Step", &make<Step, Count, double, double>);
  module.def("MultiStep", &make<MultiStep, std::vector<Count>, double, double>);
  module.def("Exp", &make<Exp, double>);
  module.def("Inv", &make<Inv, double, double>);
  module.def("Poly", &make<Poly, double, double>);
  module.def("CosineAnnealing",
             [](TargetArg target) { return make<CosineAnnealing>(to_target(target)); });
  module.def("LinearAnnealing",
             [](TargetArg target) { return make<LinearAnnealing>(to_target(target)); });
  module.def("FlatCosineAnnealing", [](double start_percent, TargetArg target) {
    return make<FlatCosineAnnealing>(start_percent, to_target(target));
  });
  module.def("CosineRestart",
             [](std::vector<Count> periods, std::vector<double> weights, TargetArg target) {
               return make<CosineRestart>(periods, weights, to_target(target));
             });
  module.def("Cyclic", [](double peak, double end, Count times, double up,
                          const std::string& strategy, double gamma) {
    return make<Cyclic>(peak, end, times, up, to_strategy(strategy), gamma);
  });
  module.def("OneCycle", [](double pct_start, double peak, double end, const std::string& strategy,
                            bool three_phase, Count total_steps) {
    return make<OneCycle>(pct_start, peak, end, to_strategy(strategy), three_phase, total_steps);
  });
  module.def("WSD", [](Count decay_steps, double decay_ratio, const std::string& strategy,
                       TargetArg target) {
    return make<WSD>(decay_steps, decay_ratio, to_strategy(strategy), to_target(target));
  });
  module.def("Sequential", [](const Policies& policies, std::vector<Count> milestones) {
    return make<Sequential>(std::vector<PolicyPtr>(policies.begin(), policies.end()), milestones);
  });
}

}  // namespace

void bind_schedule(py::module_& module) {
  auto policies = module.def_submodule("policies", "Schedules in C++.");
  bind_policies(policies);
  module.attr("Policy") = policies.attr("Policy");
  py::class_<Warmup>(module, "Warmup", kSealed, py::is_final())
      .def("factor", &Warmup::factor, py::arg("iteration"));
  module.def("make_warmup", &make_warmup, py::arg("kind"), py::arg("iters"), py::arg("ratio"));
  py::class_<GroupSchedule, std::shared_ptr<GroupSchedule>>(module, "GroupSchedule", kSealed,
                                                            py::is_final())
      .def("configure", &GroupSchedule::configure, py::arg("hook"), py::arg("groups"),
           py::arg("base"), py::arg("policies"), py::arg("by_epoch"), py::arg("warmup"))
      // By reference: for a method without named arguments, pybind11 makes None a null pointer.
      .def("regular", [](GroupSchedule& self) { return self.regular(); })
      .def("action", [](std::shared_ptr<GroupSchedule> schedule) {
        if (!schedule) throw py::type_error("None is no schedule");
        return make_action(std::make_unique<ScheduleAction>(std::move(schedule)));
      });
  module.def(
      "make_group_schedule",
      [](const std::string& value) { return std::make_shared<GroupSchedule>(value); },
      py::arg("value"));
}

}  // namespace hookrun
