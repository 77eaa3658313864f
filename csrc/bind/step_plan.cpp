#include "step_plan.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "step_types.hpp"

namespace hookrun {
namespace {

// Elements of a step, of a few milliseconds at most, that keeps the GIL. So nothing can free the
// gradients meanwhile, and no Python object must be made for each to refer to it.
constexpr std::int64_t kMostWithGil = std::int64_t{1} << 20;

std::int64_t count(const std::vector<cpu::Row>& rows) {
  return static_cast<std::int64_t>(rows.size());
}

class ReleasedGil {
 public:
  explicit ReleasedGil(bool release) {
    if (release) released_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> released_;
};

}  // namespace

// While a step is taken: it may release the GIL, and another thread may ask for one.
class StepPlan::Busy {
 public:
  explicit Busy(StepPlan& plan) : plan_(plan) { plan_.busy_ = true; }
  ~Busy() {
    for (py::object& gradient : plan_.gradients_) gradient = py::object();
    plan_.busy_ = false;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  StepPlan& plan_;
};

StepPlan::StepPlan(py::handle optimizer, py::handle model_params, py::handle ema, bool is_sgd)
    : kind_(is_sgd ? make_bound_sgd() : make_bound_adam()),
      params_(std::make_unique<BoundParams>(optimizer, model_params, ema, *kind_)),
      gradients_(params_->members().size()),
      latest_(params_->members().size()),
      active_(params_->members().size()) {
  std::int64_t numel = 0;
  for (const Member& member : params_->members()) {
    member_rows_.push_back(member.row);
    numel += member.row.numel;
  }
  keeps_gil_ = Torch::get().reads_gradients() && numel <= kMostWithGil;
}

py::object StepPlan::step(py::handle optimizer, py::handle model_params, py::handle ema,
                          const StepSettings& settings) {
  if (!params_) return py::str("the plan has been cleared");
  if (busy_) return py::str("another thread takes a step");
  if (settings.threads < 1) return py::str("no threads are given");
  const Busy busy(*this);
  return or_reason(
      [&]() -> py::object { return py::float_(take(optimizer, model_params, ema, settings)); });
}

double StepPlan::take(py::handle optimizer, py::handle model_params, py::handle ema,
                      const StepSettings& settings) {
  read_options();
  read_gradients();
  const double norm = settings.needs_norm ? norm_of(settings) : -1.0;
  // Reading an option may run any Python, and the norm may have released the GIL. From here on
  // neither happens before the kernel runs, so what is verified now is what it writes.
  params_->verify_objects(optimizer, model_params, ema);
  params_->verify_memory();
  if (settings.needs_norm && !keeps_gil_) verify_gradients();
  if (settings.needs_norm && !std::isfinite(norm)) {
    if (settings.may_skip) return norm;
    require(!settings.error_if_nonfinite, "the norm is not finite");
  }
  make_rows(settings.ema_momentum);
  versions_.bump();
  for (const std::size_t number : numbers_) params_->members()[number].count_step();
  const double factor = settings.max_norm ? *settings.max_norm / (norm + 1e-6) : 1.0;
  const double grad_scale = settings.inverse_scale * (factor > 1.0 ? 1.0 : factor);
  const cpu::TensorList list = cpu::number_rows(rows_.data(), count(rows_));
  const cpu::TensorList averages =
      cpu::number_rows(averages_without_grad_.data(), count(averages_without_grad_));
  {
    const ReleasedGil released(!keeps_gil_);
    kind_->run(list, {grad_scale, settings.ema_momentum}, settings.threads);
    if (settings.ema_momentum != 0.0) {
      cpu::ops().ema(averages, settings.ema_momentum, settings.threads);
    }
  }
  return norm;
}

void StepPlan::read_options() {
  // As in hookrun/ops/step_support.py.
  static PyObject* const unsupported[] = {PyUnicode_InternFromString("amsgrad"),
                                          PyUnicode_InternFromString("differentiable"),
                                          PyUnicode_InternFromString("capturable")};
  kind_->clear();
  for (const Group& group : params_->groups()) {
    for (PyObject* name : unsupported) {
      const py::object value = find_item(group.dict, name);
      require(!value || !is_true(value), "an option is set that no kernel has");
    }
    kind_->read_group(group.dict);
  }
}

void StepPlan::read_gradients() {
  // Reading one through its Python object can run any Python, which may free others that were read
  // before: in the second pass none is.
  if (keeps_gil_ && read_all(Reference::kNone) && read_all(Reference::kNone)) keeps_gil_ = false;
  if (!keeps_gil_) {
    hold_gradients();
    read_all(Reference::kHeld);
  }
  if (!selected_) select_rows();
  require(!numbers_.empty(), "no parameter has a gradient");
}

// All at first: making an object can run any Python, which may change others.
void StepPlan::hold_gradients() {
  static PyObject* const grad = PyUnicode_InternFromString("grad");
  for (std::size_t number = 0; number < active_.size(); ++number) {
    gradients_[number] = steal(PyObject_GetAttr(params_->members()[number].source, grad));
  }
}

// The GIL was released: another thread may have moved the gradients, but not freed them.
void StepPlan::verify_gradients() {
  for (const std::size_t number : numbers_) {
    const std::int64_t before = latest_[number].address();
    latest_[number].read(*params_, params_->members()[number], gradients_[number].ptr());
    require(latest_[number].address() == before, "a gradient has been moved");
  }
}

// Returns whether any was read through its Python object.
bool StepPlan::read_all(Reference reference) {
  bool anew = false;
  for (std::size_t number = 0; number < active_.size(); ++number) {
    if (number + BoundGradient::kAhead < active_.size())
      latest_[number + BoundGradient::kAhead].prefetch();
    const Member& member = params_->members()[number];
    PyObject* held = reference == Reference::kHeld ? gradients_[number].ptr() : nullptr;
    const bool active = latest_[number].read(*params_, member, held);
    selected_ = selected_ && active == (active_[number] != 0);
    active_[number] = active;
    if (!active) continue;
    anew = anew || latest_[number].was_read_anew();
    take_gradient(number);
  }
  return anew;
}

void StepPlan::take_gradient(std::size_t number) {
  const BoundGradient& gradient = latest_[number];
  const unsigned types = step_types(params_->members()[number].elements.dtype, cpu::kGrad,
                                    kind_->copy_column(), kind_->ema_column());
  require((types & only(gradient.dtype())) != 0, "a gradient has another dtype");
  member_rows_[number].address[cpu::kGrad] = reinterpret_cast<void*>(gradient.address());
  member_rows_[number].dtype[cpu::kGrad] = gradient.dtype();
}

// Other parameters have gradients than before.
void StepPlan::select_rows() {
  numbers_.clear();
  averages_without_grad_.clear();
  py::list written;
  for (std::size_t number = 0; number < active_.size(); ++number) {
    const Member& member = params_->members()[number];
    if (active_[number]) {
      numbers_.push_back(number);
      for (PyObject* each : {member.param, member.copy, member.average}) {
        if (each != nullptr) written.append(borrow(each));
      }
    } else if (member.average != nullptr) {
      cpu::Row row;
      row.numel = member.row.numel;
      row.address[0] = member.row.address[kind_->ema_column()];
      row.dtype[0] = member.row.dtype[kind_->ema_column()];
      row.address[1] = member.row.address[cpu::kParam];
      row.dtype[1] = member.row.dtype[cpu::kParam];
      averages_without_grad_.push_back(row);
      written.append(borrow(member.average));
    }
  }
  versions_ = BoundVersions(written);
  selected_ = true;
}

void StepPlan::make_rows(double ema_momentum) {
  rows_.clear();
  for (const std::size_t number : numbers_) {
    rows_.push_back(member_rows_[number]);
    if (ema_momentum == 0.0) rows_.back().address[kind_->ema_column()] = nullptr;
    const double step = params_->members()[number].next_step();
    require(kind_->add_row(rows_.back(), step), "a parameter has no state yet");
  }
}

// The norm of the unscaled gradients.
double StepPlan::norm_of(const StepSettings& settings) {
  gradient_rows_.clear();
  bool wide = false;
  for (const std::size_t number : numbers_) {
    const cpu::Row& row = member_rows_[number];
    cpu::Row gradient;
    gradient.address[0] = row.address[cpu::kGrad];
    gradient.dtype[0] = row.dtype[cpu::kGrad];
    gradient.numel = row.numel;
    gradient_rows_.push_back(gradient);
    wide = wide || gradient.dtype[0] == cpu::DType::kFloat64;
  }
  const cpu::TensorList list = cpu::number_rows(gradient_rows_.data(), count(gradient_rows_));
  partials_.resize(static_cast<std::size_t>(list.chunks()));
  double norm = 0.0;
  {
    const ReleasedGil released(!keeps_gil_);
    norm = std::sqrt(cpu::ops().sum_of_squares(list, partials_.data(), settings.threads));
  }
  require(!(wide && std::isinf(norm)), "the squares of fp64 gradients overflow");
  return norm * settings.inverse_scale;
}

int StepPlan::traverse(visitproc visit, void* arg) const {
  if (const int stop = versions_.traverse(visit, arg)) return stop;
  for (const py::object& gradient : gradients_) Py_VISIT(gradient.ptr());
  return params_ ? params_->traverse(visit, arg) : 0;
}

void StepPlan::clear() {
  const std::unique_ptr<BoundParams> params = std::move(params_);  // destroyed last
  const BoundVersions versions = std::exchange(versions_, {});
  selected_ = false;
}

}  // namespace hookrun
