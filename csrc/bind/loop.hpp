#pragma once

#include "python.hpp"

namespace hookrun {

void bind_loop(py::module_& module);

}  // namespace hookrun
