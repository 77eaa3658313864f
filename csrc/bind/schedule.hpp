#pragma once

#include "python.hpp"

namespace hookrun {

void bind_schedule(py::module_& module);

}  // namespace hookrun
