// IterTimerHook's work: seconds spent waiting for data, and per iteration.
#include <array>
#include <chrono>

#include "action.hpp"
#include "log_buffer.hpp"
#include "timer.hpp"

namespace hookrun {
namespace {

using Clocktime = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

class TimerAction : public Action {
 public:
  enum class Part { kStart, kDataReady, kDone };

  TimerAction(Part part, std::shared_ptr<Clocktime::time_point> since)
      : part_(part), since_(std::move(since)) {}

  bool run(RunState* state) override {
    const Clocktime::time_point now = Clocktime::now();
    const double elapsed = Seconds(now - *since_).count();
    if (part_ != Part::kDataReady) *since_ = now;
    switch (part_) {
      case Part::kStart:
        return true;
      case Part::kDataReady:
        return log(state->log_buffer, Names::get().data_time, elapsed);
      case Part::kDone:
        return log(state->log_buffer, Names::get().time, elapsed);
    }
    return true;
  }

 private:
  bool log(PyObject* buffer, PyObject* name, double seconds) {
    if (buffer != nullptr && is_log_buffer(buffer)) {
      return push_value(buffer, name, seconds, 1.0, position_);
    }
    return guarded<>(false, [&] {
      if (buffer == nullptr) throw py::attribute_error("the runner has no log_buffer");
      py::dict values;
      values[name] = seconds;
      steal(PyObject_CallMethodOneArg(buffer, Names::get().update, values.ptr()));
      return true;
    });
  }

  Part part_;
  std::size_t position_ = 0;  // of the name in the log buffer
  std::shared_ptr<Clocktime::time_point> since_;
};

py::tuple make_timer() {
  using Part = TimerAction::Part;
  const auto since = std::make_shared<Clocktime::time_point>(Clocktime::now());
  const auto action = [&](Part part) {
    return make_action(std::make_unique<TimerAction>(part, since));
  };
  py::dict actions;
  for (const char* event : {"before_epoch", "before_train_epoch", "before_val_epoch"}) {
    actions[event] = action(Part::kStart);
  }
  for (const char* event : {"before_iter", "before_train_iter", "before_val_iter"}) {
    actions[event] = action(Part::kDataReady);
  }
  for (const char* event : {"after_iter", "after_train_iter", "after_val_iter"}) {
    actions[event] = action(Part::kDone);
  }
  const auto leave_out = [since](double seconds) {
    *since += std::chrono::duration_cast<Clocktime::duration>(Seconds(seconds));
  };
  return py::make_tuple(actions, py::cpp_function(leave_out, py::arg("seconds")));
}

}  // namespace

void bind_timer(py::module_& module) {
  module.def("make_timer", &make_timer,
             "Actions by event name that put 'data_time' and 'time' (seconds) into the log buffer, "
             "and leave_out(seconds), which keeps a pause out of both; they share one clock.");
}

}  // namespace hookrun
