#include "bound_params.hpp"

#include <algorithm>
#include <unordered_map>

#include "step_types.hpp"

namespace hookrun {
namespace {

using cpu::DType;

constexpr std::size_t kAhead = 8;  // in a long list, each object is several cache misses

struct Attributes {
  PyObject* param_groups = PyUnicode_InternFromString("param_groups");
  PyObject* params = PyUnicode_InternFromString("params");
  PyObject* state = PyUnicode_InternFromString("state");
  PyObject* step = PyUnicode_InternFromString("step");

  static const Attributes& get() {
    static const Attributes names;
    return names;
  }
};

const py::object& known(const py::object& object) {
  require(static_cast<bool>(object), "the optimizer lacks what torch's have");
  return object;
}

BoundDict bound_dict(const py::object& object) {
  require(reads_as_dict(known(object).ptr()), "the optimizer's state is not made of dicts");
  return BoundDict(object.ptr());
}

}  // namespace

BoundParams::BoundParams(py::handle optimizer, py::handle model_params, py::handle ema,
                         const BoundOptimizer& kind, Kernels where)
    : kind_(kind),
      where_(where),
      optimizer_(borrow(optimizer.ptr())),
      type_(borrow(reinterpret_cast<PyObject*>(Py_TYPE(optimizer.ptr())))),
      own_step_(attribute(Attributes::get().step)),
      group_list_(known(attribute(Attributes::get().param_groups)).ptr()),
      state_(bound_dict(attribute(Attributes::get().state))),
      model_params_(model_params.ptr()),
      ema_(ema.ptr()) {
  const Torch& torch = Torch::get();
  require(torch.api != nullptr && torch.has_fingerprints(), "this torch has no fingerprints");
  std::unordered_map<PyObject*, PyObject*> states;
  for (const auto& [param, state] : state_.items()) {
    states_.push_back(bound_dict(state));
    states[param.ptr()] = state.ptr();
  }
  std::size_t count = 0;
  for (std::size_t g = 0; g < group_list_.size(); ++g) {
    require(reads_as_dict(group_list_[g]), "a parameter group is no dict");
    const py::object params = known(find_item(group_list_[g], Attributes::get().params));
    groups_.push_back({group_list_[g], BoundSequence(params.ptr())});
    count += groups_.back().params.size();
  }
  require(model_params_.has_size(count) && ema_.has_size(count),
          "lists have not as many tensors as there are parameters");
  if (where_ == Kernels::kDevice) device_ = device_of(first_param());
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (std::size_t i = 0; i < groups_[g].params.size(); ++i) {
      PyObject* param = groups_[g].params[i];
      const auto state = states.find(param);
      bind_member(param, state == states.end() ? nullptr : state->second,
                  static_cast<std::int32_t>(g));
    }
  }
  check_written_apart();
}

PyObject* BoundParams::first_param() const {
  for (const Group& group : groups_) {
    if (group.params.size() > 0) return group.params[0];
  }
  throw Mismatch{"there are no parameters"};
}

// Of the optimizer object itself; null: it has none.
py::object BoundParams::attribute(PyObject* name) const {
  const py::object attributes = steal(PyObject_GenericGetDict(optimizer_.ptr(), nullptr));
  return find_item(attributes.ptr(), name);
}

void BoundParams::bind_member(PyObject* param, PyObject* state, std::int32_t group) {
  const std::size_t number = members_.size();
  Member member;
  member.param = param;
  member.source = model_params_[number] == nullptr ? param : model_params_[number];
  if (member.source != param) member.copy = member.source;
  member.average = ema_[number] == Py_None ? nullptr : ema_[number];
  member.elements = read(param);
  member.row.group = group;
  member.row.numel = member.elements.numel;
  member.row.item_size = member.elements.item_size;
  bind_tensor(member, cpu::kParam, param);
  if (state != nullptr) bind_state(member, state);
  if (member.copy != nullptr) bind_tensor(member, kind_.copy_column(), member.copy);
  if (member.average != nullptr) bind_tensor(member, kind_.ema_column(), member.average);
  members_.push_back(member);
}

void BoundParams::bind_tensor(Member& member, std::size_t column, PyObject* tensor) {
  const TensorElements elements = read(tensor);
  require(elements.has_layout_of(member.elements), "tensors that belong together differ in layout");
  if (where_ == Kernels::kCpu) {  // those of a device take any mix of floats
    const unsigned types =
        step_types(member.elements.dtype, column, kind_.copy_column(), kind_.ema_column());
    require((types & only(elements.dtype)) != 0, "tensors that belong together differ in dtype");
  }
  member.row.address[column] = elements.address;
  member.row.dtype[column] = elements.dtype;
  add_written(tensor, elements);
}

void BoundParams::bind_state(Member& member, PyObject* state) {
  std::size_t column = cpu::kGrad;
  for (PyObject* name : kind_.state_names()) {
    const py::object tensor = find_item(state, name);
    ++column;
    if (tensor && !tensor.is_none()) bind_tensor(member, column, tensor.ptr());
  }
  if (kind_.step_name() == nullptr) return;
  const py::object step = find_item(state, kind_.step_name());
  require(static_cast<bool>(step), "a parameter has no step count");
  const TensorElements elements = read(step.ptr());
  require(elements.numel == 1, "a step count is not one number");
  require(elements.dtype == DType::kFloat32 || elements.dtype == DType::kFloat64,
          "a step count is neither fp32 nor fp64");
  member.step = elements.address;
  member.step_dtype = elements.dtype;
  add_written(step.ptr(), elements);
}

void BoundParams::add_written(PyObject* tensor, const TensorElements& elements) {
  const Torch& torch = Torch::get();
  const Torch::Parts parts = torch.parts(tensor);
  tensors_.push_back({tensor, parts, Torch::fingerprint(parts)});
  const auto* begin = static_cast<const char*>(elements.address);
  if (elements.numel > 0) written_.push_back({begin, begin + elements.numel * elements.item_size});
}

void BoundParams::check_written_apart() {
  std::sort(written_.begin(), written_.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < written_.size(); ++i) {
    require(written_[i - 1].end <= written_[i].begin, "tensors share memory");
  }
}

void BoundParams::verify_objects(py::handle optimizer, py::handle model_params,
                                 py::handle ema) const {
  const Attributes& names = Attributes::get();
  require(optimizer.ptr() == optimizer_.ptr() &&
              reinterpret_cast<PyObject*>(Py_TYPE(optimizer.ptr())) == type_.ptr(),
          "the optimizer is another one");
  require(attribute(names.step).ptr() == own_step_.ptr(), "the optimizer's step is another one");
  require(attribute(names.param_groups).ptr() == group_list_.ptr() && group_list_.holds(),
          "the parameter groups are others");
  for (const Group& group : groups_) {
    require(find_item(group.dict, names.params).ptr() == group.params.ptr() && group.params.holds(),
            "the parameters of a group are others");
  }
  require(attribute(names.state).ptr() == state_.ptr() && state_.holds(),
          "the optimizer's state is another one");
  for (std::size_t i = 0; i < states_.size(); ++i) {
    if (i + kAhead < states_.size()) states_[i + kAhead].prefetch();
    require(states_[i].holds(), "the state of a parameter is another one");
  }
  require(model_params_.holds(model_params.ptr()), "the model's parameters are others");
  require(ema_.holds(ema.ptr()), "the averages are others");
}

void BoundParams::verify_memory() const {
  const Torch& torch = Torch::get();
  const std::size_t count = tensors_.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kAhead < count) {
      __builtin_prefetch(tensors_[i + kAhead].object);
      Torch::prefetch(tensors_[i + kAhead].parts);
    }
    const BoundTensor& tensor = tensors_[i];
    require(torch.is_plain(tensor.object) && torch.parts(tensor.object) == tensor.parts &&
                Torch::fingerprint(tensor.parts) == tensor.fingerprint,
            "the memory of a tensor is another one");
  }
}

bool BoundParams::share_written_memory(const TensorElements& elements) const {
  if (elements.numel == 0) return false;
  const auto* begin = static_cast<const char*>(elements.address);
  const auto* end = begin + elements.numel * elements.item_size;
  const auto after = std::partition_point(written_.begin(), written_.end(),
                                          [&](const Range& range) { return range.end <= begin; });
  return after != written_.end() && after->begin < end;
}

int BoundParams::traverse(visitproc visit, void* arg) const {
  for (const py::object* each : {&optimizer_, &type_, &own_step_}) Py_VISIT(each->ptr());
  for (const Group& group : groups_) {
    if (const int stop = group.params.traverse(visit, arg)) return stop;
  }
  for (const BoundDict& state : states_) {
    if (const int stop = state.traverse(visit, arg)) return stop;
  }
  if (const int stop = group_list_.traverse(visit, arg)) return stop;
  if (const int stop = state_.traverse(visit, arg)) return stop;
  if (const int stop = model_params_.traverse(visit, arg)) return stop;
  return ema_.traverse(visit, arg);
}

}  // namespace hookrun
