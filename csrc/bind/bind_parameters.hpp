#pragma once

#include "python.hpp"

namespace hookrun {

void bind_parameters(py::module_& module);

}  // namespace hookrun
