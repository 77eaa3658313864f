// A bound C++ class whose objects take part in garbage collection: one that refers to what may
// refer to what holds it.
#pragma once

#include "python.hpp"

namespace hookrun {

// Null while the object is made or destroyed.
template <class T>
T* held_object(PyObject* self) {
  auto* instance = reinterpret_cast<py::detail::instance*>(self);
  if (!instance->get_value_and_holder().holder_constructed()) return nullptr;
  return py::cast<T*>(py::handle(self));
}

// For py::custom_type_setup. T has `traverse` and `clear`.
template <class T>
void make_collectable(PyHeapTypeObject* heap_type) {
  PyTypeObject* type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const T* object = held_object<T>(self);
    return object == nullptr ? 0 : object->traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) {
    if (T* object = held_object<T>(self)) object->clear();
    return 0;
  };
}

}  // namespace hookrun
