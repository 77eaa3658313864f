#pragma once

#include "python.hpp"

namespace hookrun {

void bind_timer(py::module_& module);

}  // namespace hookrun
