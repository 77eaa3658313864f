#pragma once

#include "python.hpp"

namespace hookrun {

// Adds uninterrupted, interruptible and interrupted_by_second.
void bind_interrupts(py::module_& module);

}  // namespace hookrun
