// Python objects that must be what they were when something was bound to them.
//
// What is bound is referred to, so that no other object can have taken its address: one that has
// the same address is the same object.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "python.hpp"

namespace hookrun {

// Why something cannot be bound, or no longer is what it was.
struct Mismatch {
  std::string reason;
};

// What the body returns; or a text that says why a plan does not hold. Interruptions such as
// KeyboardInterrupt go on; other errors are those of the careful way, which raises them or gets by.
template <class Body>
py::object or_reason(Body&& body) {
  try {
    return body();
  } catch (const Mismatch& mismatch) {
    return py::str(mismatch.reason);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    return py::str(error.what());
  } catch (const py::builtin_exception& error) {
    return py::str(error.what());
  }
}

inline void require(bool holds, const char* otherwise) {
  if (!holds) throw Mismatch{otherwise};
}

// Whether the object is a dict or list that reads as the built-in one, such as a defaultdict: what
// a subclass overrides would not be called.
inline bool reads_as_dict(PyObject* object) {
  const PyTypeObject* type = Py_TYPE(object);
  return PyDict_Check(object) && type->tp_iter == PyDict_Type.tp_iter &&
         type->tp_as_mapping->mp_subscript == PyDict_Type.tp_as_mapping->mp_subscript;
}
inline bool reads_as_list(PyObject* object) {
  const PyTypeObject* type = Py_TYPE(object);
  return PyTuple_CheckExact(object) ||
         (PyList_Check(object) && type->tp_iter == PyList_Type.tp_iter &&
          type->tp_as_sequence->sq_item == PyList_Type.tp_as_sequence->sq_item);
}

// A number that every change of a dict's keys or values changes, and that no two dicts share; 0 in
// Pythons that do not count changes.
inline std::uint64_t dict_version([[maybe_unused]] PyObject* dict) {
#if PY_VERSION_HEX < 0x030E0000 && !defined(PYPY_VERSION)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#pragma GCC diagnostic pop
#else
  return 0;
#endif
}

// A dict with the same keys and values, in the same order.
class BoundDict {
 public:
  explicit BoundDict(PyObject* dict) : dict_(borrow(dict)), version_(dict_version(dict)) {
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(dict, &at, &key, &value);) {
      items_.emplace_back(borrow(key), borrow(value));
    }
  }

  bool holds() const {
    const std::uint64_t version = dict_version(dict_.ptr());
    if (version != 0 && version == version_) return true;
    if (!holds_items()) return false;
    version_ = version;
    return true;
  }

  // A hint that it will be verified soon.
  void prefetch() const {
    __builtin_prefetch(&reinterpret_cast<PyDictObject*>(dict_.ptr())->ma_used);
  }

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(dict_.ptr());
    for (const auto& [key, value] : items_) {
      Py_VISIT(key.ptr());
      Py_VISIT(value.ptr());
    }
    return 0;
  }

  PyObject* ptr() const { return dict_.ptr(); }
  const std::vector<std::pair<py::object, py::object>>& items() const { return items_; }

 private:
  bool holds_items() const {
    if (static_cast<std::size_t>(PyDict_GET_SIZE(dict_.ptr())) != items_.size()) return false;
    PyObject *key, *value;
    auto item = items_.begin();
    for (Py_ssize_t at = 0; PyDict_Next(dict_.ptr(), &at, &key, &value); ++item) {
      if (item->first.ptr() != key || item->second.ptr() != value) return false;
    }
    return true;
  }

  py::object dict_;
  mutable std::uint64_t version_;  // with which it held last
  std::vector<std::pair<py::object, py::object>> items_;
};

// A list or tuple of the same objects.
class BoundSequence {
 public:
  explicit BoundSequence(PyObject* sequence) : sequence_(borrow(sequence)) {
    require(reads_as_list(sequence), "a list of tensors is no list");
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(sequence); ++i) {
      items_.push_back(borrow(PySequence_Fast_GET_ITEM(sequence, i)));
    }
  }

  bool holds() const {
    PyObject* now = sequence_.ptr();
    if (PySequence_Fast_GET_SIZE(now) != static_cast<Py_ssize_t>(items_.size())) return false;
    PyObject** item = PySequence_Fast_ITEMS(now);
    return std::all_of(items_.begin(), items_.end(),
                       [&](const py::object& bound) { return bound.ptr() == *item++; });
  }

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(sequence_.ptr());
    for (const py::object& item : items_) Py_VISIT(item.ptr());
    return 0;
  }

  PyObject* ptr() const { return sequence_.ptr(); }
  std::size_t size() const { return items_.size(); }
  PyObject* operator[](std::size_t i) const { return items_[i].ptr(); }

 private:
  py::object sequence_;
  std::vector<py::object> items_;
};

// The same, or None.
class BoundOptionalSequence {
 public:
  explicit BoundOptionalSequence(PyObject* given) {
    if (given != Py_None) sequence_.emplace_back(given);
  }

  bool holds(PyObject* now) const {
    if (sequence_.empty()) return now == Py_None;
    return now == sequence_[0].ptr() && sequence_[0].holds();
  }

  int traverse(visitproc visit, void* arg) const {
    return sequence_.empty() ? 0 : sequence_[0].traverse(visit, arg);
  }

  // Null where it is None.
  PyObject* operator[](std::size_t i) const {
    return sequence_.empty() ? nullptr : sequence_[0][i];
  }
  bool has_size(std::size_t size) const { return sequence_.empty() || sequence_[0].size() == size; }

 private:
  std::vector<BoundSequence> sequence_;  // none or one
};

}  // namespace hookrun
