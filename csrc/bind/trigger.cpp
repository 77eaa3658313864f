#include "trigger.hpp"

#include <string>

namespace hookrun {
namespace {

std::int64_t int_field(py::handle trigger, const char* name) {
  const py::object value = trigger.attr(name);
  const std::int64_t number = PyLong_AsLongLong(value.ptr());
  if (number == -1 && PyErr_Occurred()) PyErr_Clear();
  if (number < 0 || number > Counters::kMaxCount) {
    throw py::value_error(std::string("a trigger's ") + name +
                          " must be an int of at least 0, not " +
                          py::cast<std::string>(py::repr(value)));
  }
  return number;
}

bool flag_field(py::handle trigger, const char* name) { return py::cast<bool>(trigger.attr(name)); }

}  // namespace

Trigger to_trigger(py::handle spec) {
  Trigger trigger;
  if (spec.is_none()) return trigger;
  trigger.always = false;
  trigger.every_epochs = int_field(spec, "epochs");
  trigger.every_iters = int_field(spec, "iters");
  trigger.every_inner_iters = int_field(spec, "inner_iters");
  trigger.start = int_field(spec, "start");
  trigger.last_epoch = flag_field(spec, "last_epoch");
  trigger.last_iter = flag_field(spec, "last_iter");
  trigger.end_of_epoch = flag_field(spec, "end_of_epoch");
  trigger.end_of_short_epoch = int_field(spec, "end_of_short_epoch");
  trigger.log_ready = flag_field(spec, "log_ready");
  trigger.once = flag_field(spec, "once");
  return trigger;
}

}  // namespace hookrun
