#pragma once

#include "python.hpp"

namespace hookrun {

void bind_launcher(py::module_& module);

}  // namespace hookrun
