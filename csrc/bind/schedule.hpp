// What Python sees of core/schedule.hpp: policies and warm-up, and the schedule of parameter
// groups.
#pragma once

#include "python.hpp"

namespace hookrun {

// For types whose objects come from functions only: of `cls.__new__(cls)` there would be an object
// that no constructor has seen.
inline const auto kSealed = py::custom_type_setup([](PyHeapTypeObject* type) {
  type->ht_type.tp_flags |= Py_TPFLAGS_DISALLOW_INSTANTIATION;
  type->ht_type.tp_new = nullptr;
});

// The submodule `policies`, and Warmup.
void bind_schedule(py::module_& module);

// GroupSchedule; after bind_schedule, whose types it takes.
void bind_group_schedule(py::module_& module);

}  // namespace hookrun
