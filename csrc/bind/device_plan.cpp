#include "device_plan.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hookrun {
namespace {

constexpr std::size_t kLine = BoundOptimizer::kOptions;
constexpr std::size_t kMomentum = 3;         // in a group's line for SGD
constexpr std::int64_t kAlignmentMask = 15;  // of the accesses that the map of chunks is made for

py::buffer_info words(const py::buffer& buffer, bool writable) {
  py::buffer_info info = buffer.request(writable);
  require(info.ndim == 1 && info.itemsize == 8 && info.strides[0] == 8, "a block is no int64");
  return info;
}

}  // namespace

DevicePlan::DevicePlan(py::handle optimizer, py::handle model_params, py::handle ema, bool is_sgd,
                       const py::buffer& block, const py::buffer& sent)
    : kind_(is_sgd ? make_bound_sgd() : make_bound_adam()),
      params_(std::make_unique<BoundParams>(optimizer, model_params, ema, *kind_,
                                            BoundParams::Kernels::kDevice)),
      is_sgd_(is_sgd),
      block_info_(words(block, true)),
      sent_info_(words(sent, false)),
      block_(static_cast<std::int64_t*>(block_info_.ptr)),
      sent_(static_cast<const std::int64_t*>(sent_info_.ptr)),
      size_(static_cast<std::size_t>(block_info_.size)) {
  bind_gradients();
  require(size_ == settings_size_ + gradients_.size() && sent_info_.size == block_info_.size,
          "the tables are of other parameters");
  read_settings(0.0, 0.0);
  const auto* line = reinterpret_cast<const double*>(block_);
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    line += kLine;
    has_momentum_.push_back(is_sgd_ && line[kMomentum] != 0.0);
  }
  bind_versions();
}

void DevicePlan::bind_gradients() {
  const std::vector<Member>& members = params_->members();
  std::int32_t last_group = -1;
  for (std::size_t i = 0; i < members.size(); ++i) {
    BoundGradient gradient;
    if (!gradient.read(*params_, members[i])) {
      without_gradient_.push_back(i);
      continue;
    }
    gradients_.push_back({i, gradient.dtype(), gradient});
    if (members[i].row.group != last_group) {
      last_group = members[i].row.group;
      groups_.push_back(static_cast<std::size_t>(last_group));
    }
  }
  settings_size_ = (1 + groups_.size()) * kLine;
}

void DevicePlan::bind_versions() {
  py::list written;
  for (const Gradient& gradient : gradients_) {
    const Member& member = params_->members()[gradient.member];
    for (PyObject* each : {member.param, member.copy, member.average}) {
      if (each != nullptr) written.append(borrow(each));
    }
  }
  versions_ = BoundVersions(written);
}

py::object DevicePlan::verify(py::handle optimizer, py::handle model_params, py::handle ema,
                              double ema_momentum, std::optional<double> max_norm) {
  if (!params_) return py::str("the plan has been cleared");
  return or_reason([&] {
    read_settings(ema_momentum, max_norm.value_or(0.0));
    read_gradients();
    // Reading an option or a gradient may run any Python. What follows runs none.
    params_->verify_objects(optimizer, model_params, ema);
    params_->verify_memory();
    return changed_part();
  });
}

py::object DevicePlan::changed_part() const {
  const auto differs = [&](std::size_t begin, std::size_t end) {
    return std::memcmp(block_ + begin, sent_ + begin, (end - begin) * sizeof *block_) != 0;
  };
  const std::size_t begin = differs(0, settings_size_) ? 0 : settings_size_;
  const std::size_t end = differs(settings_size_, size_) ? size_ : settings_size_;
  if (begin >= end) return py::none();
  return py::make_tuple(begin, end);
}

void DevicePlan::read_settings(double ema_momentum, double max_norm) {
  // As in hookrun/ops/step_support.py.
  static PyObject* const unsupported[] = {PyUnicode_InternFromString("amsgrad"),
                                          PyUnicode_InternFromString("differentiable")};
  auto* line = reinterpret_cast<double*>(block_);
  std::fill_n(line, settings_size_, 0.0);
  line[0] = ema_momentum;
  line[1] = max_norm;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    line += kLine;
    PyObject* group = params_->groups()[groups_[i]].dict;
    for (PyObject* name : unsupported) {
      const py::object value = find_item(group, name);
      require(!value || !is_true(value), "an option is set that no kernel has");
    }
    kind_->write_options(group, line);
    require(!is_sgd_ || i >= has_momentum_.size() || has_momentum_[i] == (line[kMomentum] != 0.0),
            "momentum is used in other groups");
  }
}

void DevicePlan::read_gradients() {
  const std::vector<Member>& members = params_->members();
  for (const std::size_t member : without_gradient_) {
    require(!Torch::get().has_gradient(members[member].source), "other parameters have gradients");
  }
  // Reading one through its Python object can run any Python, which may move others that were read
  // before: in the second pass none is.
  require(!read_all() || !read_all(), "a gradient cannot be read without its Python object");
}

// Returns whether any was read through its Python object.
bool DevicePlan::read_all() {
  const std::vector<Member>& members = params_->members();
  bool anew = false;
  std::int64_t* address = block_ + settings_size_;
  const std::int64_t* sent = sent_ + settings_size_;
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    if (i + BoundGradient::kAhead < gradients_.size()) {
      gradients_[i + BoundGradient::kAhead].latest.prefetch();
    }
    Gradient& gradient = gradients_[i];
    require(gradient.latest.read(*params_, members[gradient.member]),
            "other parameters have gradients");
    anew = anew || gradient.latest.was_read_anew();
    require(gradient.latest.dtype() == gradient.dtype, "a gradient has another dtype");
    *address = gradient.latest.address();
    require(((*address++ ^ *sent++) & kAlignmentMask) == 0, "a gradient is aligned otherwise");
  }
  return anew;
}

int DevicePlan::traverse(visitproc visit, void* arg) const {
  if (const int stop = versions_.traverse(visit, arg)) return stop;
  return params_ ? params_->traverse(visit, arg) : 0;
}

void DevicePlan::clear() {
  const std::unique_ptr<BoundParams> params = std::move(params_);  // destroyed last
  const BoundVersions versions = std::exchange(versions_, {});
}

}  // namespace hookrun
