// The times of a dispatcher's calls, and their Python face.
#pragma once

#include <memory>
#include <vector>

#include "../core/call_times.hpp"
#include "python.hpp"

namespace hookrun {

using Record = CallRecord<py::object>;  // the targets are the hooks

// Nanoseconds of the monotonic clock.
std::int64_t monotonic_time();

// A list of (hook, event, calls, total, median, maximum), times in seconds; None without a record.
// event_names: by id.
py::object timings_of(const Record* record, const std::vector<py::object>& event_names);

// A list of (hook, event, start, duration) in nanoseconds; empty without a record.
py::list spans_of(const Record* record, const std::vector<py::object>& event_names);

int traverse(const Record* record, visitproc visit, void* arg);

}  // namespace hookrun
