// Triggers as Python gives them.
#pragma once

#include "../core/counters.hpp"
#include "python.hpp"

namespace hookrun {

// Of a hookrun.Trigger, or an object with its fields; None is due always. Throws a Python error.
Trigger to_trigger(py::handle spec);

}  // namespace hookrun
