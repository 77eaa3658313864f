// The loop of a run: fetch a batch, fire, step, log, fire. The runners use it if no subclass
// overrides a part of it; otherwise they run the same loop in Python.
#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "batch_cursor.hpp"
#include "bound_objects.hpp"
#include "dispatcher.hpp"
#include "log_buffer.hpp"
#include "loop.hpp"

namespace hookrun {
namespace {

class Loop {
 public:
  Loop(RunState* state, bool train, bool pass_optimizer, const py::object& kwargs)
      : state_(state), train_(train), pass_optimizer_(pass_optimizer) {
    if (!kwargs.is_none()) {
      const auto extra = py::cast<py::dict>(kwargs);
      keyword_names_ = py::tuple(extra.size());
      std::size_t index = 0;
      for (auto item : extra) {
        if (!py::isinstance<py::str>(item.first)) {
          throw py::type_error("keyword arguments of a step are named by strings, not by " +
                               py::cast<std::string>(py::repr(item.first)));
        }
        keyword_names_[index++] = item.first;
        keyword_values_.push_back(borrow(item.second.ptr()));
      }
    }
  }

  // One iteration over a batch that has been fetched. False: a Python error is set.
  bool iterate(py::object batch) {
    set(&state_->data_batch, batch.ptr());
    if (!fire_event(state_, train_ ? kBeforeTrainIter : kBeforeValIter)) return false;
    if (!step(batch.ptr())) return false;
    if (!fire_event(state_, train_ ? kAfterTrainIter : kAfterValIter)) return false;
    Py_CLEAR(state_->data_batch);
    return true;
  }

  // A phase begins.
  void set_mode() { set(&state_->mode, train_ ? Names::get().train : Names::get().val); }

  // Calls model.train() before an iteration, since a hook may have left the model, or parts of it,
  // in another mode. Skipped where it would change nothing: while all modules are as it left them
  // last time, and there are no others.
  //
  // All are looked at after a hook was called. After an iteration that called none, only the
  // model itself is, and one module after the other: a step may have left them in another mode.
  void ensure_training() {
    if (!train_ || (known_model_.ptr() == state_->model && modules_are_as_left())) return;
    known_model_ = present(state_->model, "model");
    known_model_.attr("train")();
    seen_calls_ = state_->hook_calls;
    modules_.clear();
    if (!py::hasattr(known_model_, "modules")) return;
    for (py::handle module : known_model_.attr("modules")()) modules_.emplace_back(module);
  }

 private:
  // A module, and the mode and children that model.train() has left it with.
  class Module {
   public:
    explicit Module(py::handle module)
        : module_(borrow(module.ptr())), training_(attribute(Names::get().training)) {
      const py::object children = attribute(Names::get().modules);
      if (children && PyDict_Check(children.ptr())) children_.emplace(children.ptr());
    }

    bool is_as_left() const {
      return attribute(Names::get().training).is(training_) && (!children_ || children_->holds());
    }

   private:
    // Null if there is none.
    py::object attribute(PyObject* name) const {
      PyObject* found = PyObject_GetAttr(module_.ptr(), name);
      if (found == nullptr) PyErr_Clear();
      return py::reinterpret_steal<py::object>(found);
    }

    py::object module_, training_;
    std::optional<BoundDict> children_;
  };

  bool modules_are_as_left() {
    if (modules_.empty()) return false;
    if (seen_calls_ != state_->hook_calls) {
      seen_calls_ = state_->hook_calls;
      return std::all_of(modules_.begin(), modules_.end(), std::mem_fn(&Module::is_as_left));
    }
    next_module_ = (next_module_ + 1) % modules_.size();
    return modules_.front().is_as_left() && modules_[next_module_].is_as_left();
  }

  // An attribute of the runner; throws if a hook has deleted it.
  static py::object present(PyObject* reference, const char* name) {
    if (reference == nullptr) {
      throw py::attribute_error(std::string("the runner has lost its ") + name);
    }
    return borrow(reference);
  }

  static void set(PyObject** slot, PyObject* value) {
    Py_INCREF(value);
    Py_XSETREF(*slot, value);
  }

  bool step(PyObject* batch) {
    // Owned, because the step may replace the runner's model or optimizer.
    const py::object model = present(state_->model, "model");
    const py::object optimizer = present(state_->optimizer, "optimizer");
    arguments_.assign({model.ptr(), batch});
    if (pass_optimizer_) arguments_.push_back(optimizer.ptr());
    const std::size_t positional = arguments_.size();
    for (const py::object& value : keyword_values_) arguments_.push_back(value.ptr());
    const Names& names = Names::get();
    const auto outputs = py::reinterpret_steal<py::object>(
        PyObject_VectorcallMethod(train_ ? names.train_step : names.val_step, arguments_.data(),
                                  positional, keyword_names_.ptr()));
    if (!outputs) return false;
    if (!PyDict_Check(outputs.ptr())) {
      PyErr_Format(PyExc_TypeError,
                   "%.200s.%U() must return a dict with the key 'loss' (and optionally 'log_vars' "
                   "and 'num_samples'), but it returned %.200s",
                   Py_TYPE(model.ptr())->tp_name, train_ ? names.train_step : names.val_step,
                   Py_TYPE(outputs.ptr())->tp_name);
      return false;
    }
    if (!log(outputs.ptr())) return false;
    set(&state_->outputs, outputs.ptr());
    return true;
  }

  bool log(PyObject* outputs) {
    const py::object values = find_item(outputs, Names::get().log_vars);
    if (!values) return true;
    const py::object samples = find_item(outputs, Names::get().num_samples);

    if (state_->log_buffer == nullptr) {
      PyErr_SetString(PyExc_AttributeError, "the runner has no log_buffer");
      return false;
    }
    if (state_->log_buffer != known_buffer_.ptr()) {
      known_buffer_ = borrow(state_->log_buffer);
      native_update_ = has_native_update(state_->log_buffer);
    }
    if (native_update_) {
      const double count = !samples                           ? 1.0
                           : PyLong_CheckExact(samples.ptr()) ? PyLong_AsDouble(samples.ptr())
                                                              : PyFloat_AsDouble(samples.ptr());
      if (count == -1.0 && PyErr_Occurred()) return false;
      return update_values(known_buffer_.ptr(), values.ptr(), count);
    }
    steal(samples
              ? PyObject_CallMethodObjArgs(known_buffer_.ptr(), Names::get().update, values.ptr(),
                                           samples.ptr(), nullptr)
              : PyObject_CallMethodOneArg(known_buffer_.ptr(), Names::get().update, values.ptr()));
    return true;
  }

  RunState* state_;
  bool train_;
  bool pass_optimizer_;
  py::tuple keyword_names_ = py::reinterpret_steal<py::tuple>(py::handle());
  std::vector<py::object> keyword_values_;
  std::vector<PyObject*> arguments_;
  py::object known_model_;
  std::vector<Module> modules_;   // empty: the model cannot list them
  std::uint64_t seen_calls_ = 0;  // of hooks, when all modules were looked at
  std::size_t next_module_ = 0;
  py::object known_buffer_;
  bool native_update_ = false;
};

RunState* check_runner(const py::object& runner) {
  if (!is_run_state(runner.ptr())) throw py::type_error("the native loop runs runners only");
  auto* state = reinterpret_cast<RunState*>(runner.ptr());
  if (state->dispatcher == nullptr || !is_dispatcher(state->dispatcher)) {
    throw py::type_error("the native loop needs the native dispatcher");
  }
  if (state->model == nullptr || state->optimizer == nullptr) {
    throw py::attribute_error("the runner has no model or no optimizer attribute");
  }
  return state;
}

// The next item, or null at the end.
py::object next(const py::object& iterator) {
  auto item = py::reinterpret_steal<py::object>(PyIter_Next(iterator.ptr()));
  if (!item && PyErr_Occurred()) throw py::error_already_set();
  return item;
}

// Between two steps: runs signal handlers, and lets the runner end the run if it is to stop.
void at_boundary(const py::object& runner, RunState* state) {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  if (state->counters.iter < state->check_at) return;
  runner.attr("_at_boundary")();
  ++state->hook_calls;  // it may have called some
}

// Returns whether there was any batch.
bool run_epoch(const py::object& runner, const py::object& batches, bool train,
               std::int64_t first_inner_iter, const py::object& kwargs) {
  RunState* state = check_runner(runner);
  if (first_inner_iter < 0 || first_inner_iter > Counters::kMaxCount) {
    throw py::value_error("first_inner_iter must lie between 0 and 2**62 - 1");
  }
  Loop loop(state, train, /*pass_optimizer=*/true, kwargs);
  const py::object iterator = steal(PyObject_GetIter(batches.ptr()));
  for (std::int64_t inner_iter = first_inner_iter;; ++inner_iter) {
    py::object batch = next(iterator);
    if (!batch) return inner_iter > first_inner_iter;
    state->counters.inner_iter = inner_iter;
    if (!loop.iterate(std::move(batch))) throw py::error_already_set();
    if (train) ++state->counters.iter;
    at_boundary(runner, state);
  }
}

std::int64_t epoch_of(const py::object& loader) {
  if (is_batch_cursor(loader.ptr())) return epoch_of_cursor(loader.ptr());
  return py::cast<std::int64_t>(steal(PyObject_GetAttr(loader.ptr(), Names::get().epoch)));
}

// Returns the number of iterations done: fewer than `count` if the run reaches its limit or a hook
// has replaced the loader. Where `again` is not 0, phases of so many iterations follow, until then
// or until one begins in another epoch than the first.
std::int64_t run_iters(const py::object& runner, const py::object& loader, bool train,
                       std::int64_t count, std::int64_t again, const py::object& kwargs) {
  RunState* state = check_runner(runner);
  Loop loop(state, train, /*pass_optimizer=*/train, kwargs);
  const std::int64_t first_epoch = again > 0 ? epoch_of(loader) : 0;
  for (std::int64_t done = 0; again > 0 || done < count; ++done) {
    const bool at_limit = train && state->counters.max_iters != Counters::kUnknown &&
                          state->counters.iter >= state->counters.max_iters;
    if (at_limit || state->data_loader != loader.ptr()) return done;
    if (done == count) {
      if (epoch_of(loader) != first_epoch) return done;
      count += again;
      state->counters.inner_iter = 0;
      loop.set_mode();
    }
    loop.ensure_training();
    py::object batch = next(loader);
    if (!batch) throw py::stop_iteration();
    if (train) state->counters.epoch = epoch_of(loader);
    if (!loop.iterate(std::move(batch))) throw py::error_already_set();
    ++state->counters.inner_iter;
    if (train) ++state->counters.iter;
    at_boundary(runner, state);
  }
  return count;
}

}  // namespace

void bind_loop(py::module_& module) {
  module.def("run_epoch", &run_epoch, py::arg("runner"), py::arg("batches"), py::arg("train"),
             py::arg("first_inner_iter"), py::arg("kwargs"),
             "Train or validate on all batches: events, step and log for each. Returns whether "
             "there was any batch.");
  module.def(
      "run_iters", &run_iters, py::arg("runner"), py::arg("loader"), py::arg("train"),
      py::arg("count"), py::arg("again"), py::arg("kwargs"),
      "Train or validate on up to `count` batches of an IterLoader, and in phases of `again` "
      "batches after that; returns how many.");
}

}  // namespace hookrun
