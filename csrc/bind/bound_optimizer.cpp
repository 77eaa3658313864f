#include "bound_optimizer.hpp"

#include "adam_options.hpp"

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

bool flag(const py::object& value) {
  const int truth = PyObject_IsTrue(value.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

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
    read.nesterov = flag(option(group, names.nesterov));
    read.maximize = flag(option(group, names.maximize));
    groups_.push_back(read);
  }

  bool add_row(cpu::Row& row, double) override {
    if (groups_[static_cast<std::size_t>(row.group)].momentum != 0.0)
      return has(row, cpu::kSgdMomentum);
    row.address[cpu::kSgdMomentum] = nullptr;
    return true;
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
    const py::object betas = steal(PySequence_Tuple(option(group, names.betas).ptr()));
    if (PyTuple_GET_SIZE(betas.ptr()) != 2) throw py::value_error("betas are two numbers");
    Rates rates;
    rates.lr = number(option(group, names.lr));
    rates.beta1 = number(borrow(PyTuple_GET_ITEM(betas.ptr(), 0)));
    rates.beta2 = number(borrow(PyTuple_GET_ITEM(betas.ptr(), 1)));
    groups_.push_back(adam_group(
        rates.lr, rates.beta1, rates.beta2, number(option(group, names.eps)),
        number(option(group, names.weight_decay)),
        flag(option(group, names.decoupled_weight_decay)), flag(option(group, names.maximize))));
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

  void run(const cpu::TensorList& list, const cpu::StepOptions& options, int threads) override {
    cpu::ops().adam(list, groups_.data(), corrections_.data(), options, threads);
  }

 private:
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
