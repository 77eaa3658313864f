#include "log_values.hpp"

#include <algorithm>
#include <initializer_list>
#include <string>

namespace hookrun {
namespace {

bool is_any_of(PyObject* name, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* each) {
    return PyUnicode_CompareWithASCIIString(name, each) == 0;
  });
}

// The names that timers log, ours and those of other code.
bool is_time(PyObject* name) { return is_any_of(name, {"time", "data_time"}); }

// Whether the name is reserved in the output: for a timer's value, or for the length of the loader
// that an evaluation has used.
bool is_reserved(const LogValues::Slot& slot) {
  return slot.source == Source::kStep || is_any_of(slot.name.ptr(), {"eval_iter_num"});
}

py::object with_underscore(const py::object& name) {
  return steal(PyUnicode_FromFormat("%U_", name.ptr()));
}

bool takes(const LogValues::Slot& slot, Source source) {
  return slot.source == Source::kAny || slot.source == source;
}

}  // namespace

std::size_t LogValues::find_or_add(PyObject* name, Source source, std::size_t hint) {
  const auto is_same = [&](std::size_t position) {
    return slots_[position].name.ptr() == name && takes(slots_[position], source);
  };
  if (hint < slots_.size() && is_same(hint)) return hint;
  for (std::size_t position = 0; position < slots_.size(); ++position) {
    if (is_same(position)) return position;
  }
  if (!PyUnicode_Check(name)) {
    throw py::type_error("a logged value is named by a string, not by " +
                         py::cast<std::string>(py::repr(name)));
  }
  for (std::size_t position = 0; position < slots_.size(); ++position) {
    const Slot& slot = slots_[position];
    if (PyUnicode_Compare(slot.name.ptr(), name) == 0 && takes(slot, source)) return position;
  }
  py::object key = borrow(name);
  while (find_key(key.ptr()) != slots_.end()) key = with_underscore(key);
  slots_.push_back({borrow(name), key, Meter(window_), is_time(name) ? source : Source::kAny});
  return slots_.size() - 1;
}

LogValues::Slot& LogValues::at_key(PyObject* key) {
  if (!PyUnicode_Check(key)) throw py::type_error("a key of the log buffer is a string");
  const auto found = find_key(key);
  if (found == slots_.end()) throw py::key_error("the log buffer has no such key");
  return *found;
}

std::vector<LogValues::Slot>::iterator LogValues::find_key(PyObject* key) {
  return std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return PyUnicode_Compare(slot.key.ptr(), key) == 0;
  });
}

std::vector<py::object> LogValues::output_names() const {
  std::vector<py::object> names;
  for (const Slot& slot : slots_) names.push_back(slot.name);
  const auto is_taken = [&](const py::object& name) {
    return std::any_of(names.begin(), names.end(), [&](const py::object& other) {
      return PyUnicode_Compare(other.ptr(), name.ptr()) == 0;
    });
  };
  for (std::size_t position = 0; position < names.size(); ++position) {
    if (!is_reserved(slots_[position])) continue;
    py::object renamed = slots_[position].name;
    do {
      renamed = with_underscore(renamed);
    } while (is_taken(renamed));
    names[position] = renamed;
  }
  return names;
}

void LogValues::widen(std::size_t window) {
  if (window <= window_) return;
  window_ = std::min(window, Meter::kMaxWindow);
  for (Slot& slot : slots_) slot.meter.widen(window_);
}

}  // namespace hookrun
