#pragma once

#include "python.hpp"

namespace hookrun {

// The CPU backend of hookrun.ops.
void bind_cpu(py::module_& module);

}  // namespace hookrun
