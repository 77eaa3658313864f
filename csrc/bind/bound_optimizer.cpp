#include "bound_optimizer.hpp"

#include "adam_options.hpp"
#include "bound_objects.hpp"

namespace hookrun {
namespace {

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

py::object option(PyObject* group, PyObject* name) {
  py::object value = find_item(group, name);
  if (!value) throw py::key_error(PyUnicode_AsUTF8(name));
  return value;
}

double number(const py::object& value) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return number;
}

double plain_number(const py::object& value) {
  require(PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr()), "an option is no number");
  return number(value);
}

double sign(const py::object& maximize) { return is_true(maximize) ? -1.0 : 1.0; }

// Not by the address, which is null for tensors without elements.
bool has(const cpu::Row& row, int column) { return row.dtype[column] != cpu::DType::kNone; }

// The names of options and state, interned for the life of the process.
struct Options {
  PyObject* lr = interned("lr");
  PyObject* momentum = interned("momentum");
  PyObject* dampening = interned("dampening");
  PyObject* weight_decay = interned("weight_decay");
  PyObject* nesterov = interned("nesterov");
  PyObject* maximize = interned("maximize");
  PyObject* betas = interned("betas");
  PyObject* eps = interned("eps");
  PyObject* decoupled_weight_decay = interned("decoupled_weight_decay");

  static const Options& get() {
    static const Options options;
    return options;
  }
};

class BoundSgd : public BoundOptimizer {
 public:
  const std::vector<PyObject*>& state_names() const override {
    static const std::vector<PyObject*> names = {interned("momentum_buffer")};
    return names;
  }
  PyObject* step_name() const override { return nullptr; }

  void clear() override { groups_.clear(); }

  void read_group(PyObject* group) override {
    const Options& names = Options::get();
    cpu::SgdGroup read;
    read.lr = number(option(group, names.lr));
    read.momentum = number(option(group, names.momentum));
    read.dampening = number(option(group, names.dampening));
    read.weight_decay = number(option(group, names.weight_decay));
    read.nesterov = is_true(option(group, names.nesterov));
    read.maximize = is_true(option(group, names.maximize));
    groups_.push_back(read);
  }

  bool add_row(cpu::Row& row, double) override {
    if (groups_[static_cast<std::size_t>(row.group)].momentum != 0.0)
      return has(row, cpu::kSgdMomentum);
    row.address[cpu::kSgdMomentum] = nullptr;
    return true;
  }

  void write_options(PyObject* group, double* line) const override {
    const Options& names = Options::get();
    *line++ = plain_number(option(group, names.lr));
    *line++ = plain_number(option(group, names.weight_decay));
    *line++ = sign(option(group, names.maximize));
    *line++ = plain_number(option(group, names.momentum));
    *line++ = plain_number(option(group, names.dampening));
    *line++ = is_true(option(group, names.nesterov)) ? 1.0 : 0.0;
  }

  void run(const cpu::TensorList& list, const cpu::StepOptions& options, int threads) override {
    cpu::ops().sgd(list, groups_.data(), options, threads);
  }

 private:
  std::vector<cpu::SgdGroup> groups_;
};

class BoundAdam : public BoundOptimizer {
 public:
  const std::vector<PyObject*>& state_names() const override {
    static const std::vector<PyObject*> names = {interned("exp_avg"), interned("exp_avg_sq")};
    return names;
  }
  PyObject* step_name() const override {
    static PyObject* const name = interned("step");
    return name;
  }

  void clear() override {
    groups_.clear();
    rates_.clear();
    corrections_.clear();
  }

  void read_group(PyObject* group) override {
    const Options& names = Options::get();
    const py::object betas = betas_of(group);
    Rates rates;
    rates.lr = number(option(group, names.lr));
    rates.beta1 = number(borrow(PyTuple_GET_ITEM(betas.ptr(), 0)));
    rates.beta2 = number(borrow(PyTuple_GET_ITEM(betas.ptr(), 1)));
    groups_.push_back(adam_group(rates.lr, rates.beta1, rates.beta2,
                                 number(option(group, names.eps)),
                                 number(option(group, names.weight_decay)),
                                 is_true(option(group, names.decoupled_weight_decay)),
                                 is_true(option(group, names.maximize))));
    rates_.push_back(rates);
  }

  bool add_row(cpu::Row& row, double count) override {
    Rates& rates = rates_[static_cast<std::size_t>(row.group)];
    if (count != rates.count) {  // mostly, all parameters of a group have taken as many steps
      rates.corrections = adam_bias_corrections(rates.lr, rates.beta1, rates.beta2, count);
      rates.count = count;
    }
    corrections_.push_back(rates.corrections);
    return has(row, cpu::kAdamMean) && has(row, cpu::kAdamSquare);
  }

  void write_options(PyObject* group, double* line) const override {
    const Options& names = Options::get();
    const py::object betas = betas_of(group);
    *line++ = plain_number(option(group, names.lr));
    *line++ = plain_number(option(group, names.weight_decay));
    *line++ = sign(option(group, names.maximize));
    *line++ = plain_number(borrow(PyTuple_GET_ITEM(betas.ptr(), 0)));
    *line++ = plain_number(borrow(PyTuple_GET_ITEM(betas.ptr(), 1)));
    *line++ = plain_number(option(group, names.eps));
    *line++ = is_true(option(group, names.decoupled_weight_decay)) ? 1.0 : 0.0;
  }

  void run(const cpu::TensorList& list, const cpu::StepOptions& options, int threads) override {
    cpu::ops().adam(list, groups_.data(), corrections_.data(), options, threads);
  }

 private:
  static py::object betas_of(PyObject* group) {
    py::object betas = steal(PySequence_Tuple(option(group, Options::get().betas).ptr()));
    if (PyTuple_GET_SIZE(betas.ptr()) != 2) throw py::value_error("betas are two numbers");
    return betas;
  }

  // What the corrections of a group are computed from, and those computed last.
  struct Rates {
    double lr, beta1, beta2;
    double count = 0.0;
    cpu::AdamBiasCorrections corrections = {};
  };

  std::vector<cpu::AdamGroup> groups_;
  std::vector<Rates> rates_;                           // by group
  std::vector<cpu::AdamBiasCorrections> corrections_;  // by row
};

}  // namespace

std::unique_ptr<BoundOptimizer> make_bound_sgd() { return std::make_unique<BoundSgd>(); }
std::unique_ptr<BoundOptimizer> make_bound_adam() { return std::make_unique<BoundAdam>(); }

}  // namespace hookrun
