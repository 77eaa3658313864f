// BatchCursor: the native base of IterLoader. It fetches batches and counts them; only where a pass
// begins or ends does it enter Python.
#pragma once

#include <cstdint>

#include "python.hpp"

namespace hookrun {

bool is_batch_cursor(PyObject* object);

// Finished passes.
std::int64_t epoch_of_cursor(PyObject* cursor);

void bind_batch_cursor(py::module_& module);

}  // namespace hookrun
