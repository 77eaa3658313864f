#include "call_record.hpp"

#include <chrono>

namespace hookrun {
namespace {

double seconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-9; }

}  // namespace

std::int64_t monotonic_time() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

// What the record has is copied before Python objects are made: that can run code which fires
// events, or ends the measurement.

py::object timings_of(const Record* record, const std::vector<py::object>& event_names) {
  if (record == nullptr) return py::none();
  const std::vector<Record::Row> rows = record->rows();
  const std::vector<py::object> names = event_names;
  py::list found;
  for (const Record::Row& row : rows) {
    const CallTimes& times = row.times;
    found.append(py::make_tuple(row.hook, names[row.event], times.calls(), seconds(times.total()),
                                seconds(times.median()), seconds(times.maximum())));
  }
  return found;
}

py::list spans_of(const Record* record, const std::vector<py::object>& event_names) {
  py::list found;
  if (record == nullptr) return found;
  const std::vector<Record::Row> rows = record->rows();
  const std::vector<py::object> names = event_names;
  std::vector<Record::Span> spans;
  record->each_span([&](const Record::Span& span) { spans.push_back(span); });
  for (const Record::Span& span : spans) {
    const Record::Row& row = rows[span.row];
    found.append(py::make_tuple(row.hook, names[row.event], span.start, span.duration));
  }
  return found;
}

int traverse(const Record* record, visitproc visit, void* arg) {
  if (record == nullptr) return 0;
  return record->visit([&](const py::object& hook) {
    Py_VISIT(hook.ptr());
    return 0;
  });
}

}  // namespace hookrun
