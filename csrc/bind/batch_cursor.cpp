#include "batch_cursor.hpp"

namespace hookrun {
namespace {

struct BatchCursor {
  PyObject_HEAD PyObject* batches;  // the iterator of the current pass; None before it begins
  Py_ssize_t position;              // batches yielded in the current pass
  long long epoch;                  // finished passes
};

PyTypeObject* cursor_type = nullptr;

BatchCursor* as_cursor(PyObject* self) { return reinterpret_cast<BatchCursor*>(self); }

PyObject* cursor_next(PyObject* self) {
  BatchCursor* cursor = as_cursor(self);
  if (cursor->batches != nullptr && PyIter_Check(cursor->batches)) {
    // Owned, because fetching may run Python code that replaces it.
    PyObject* batches = Py_NewRef(cursor->batches);
    // An iterator may come back here.
    const bool entered = Py_EnterRecursiveCall(" while fetching a batch") == 0;
    PyObject* batch = entered ? PyIter_Next(batches) : nullptr;
    if (entered) Py_LeaveRecursiveCall();
    Py_DECREF(batches);
    if (batch != nullptr) ++cursor->position;
    if (batch != nullptr || PyErr_Occurred()) return batch;
  }
  static PyObject* const first_batch = PyUnicode_InternFromString("_first_batch");
  return PyObject_CallMethodNoArgs(self, first_batch);
}

int cursor_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(as_cursor(self)->batches);
  return 0;
}

int cursor_clear(PyObject* self) {
  Py_CLEAR(as_cursor(self)->batches);
  return 0;
}

void cursor_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  cursor_clear(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMemberDef cursor_members[] = {
    {"_batches", T_OBJECT, offsetof(BatchCursor, batches), 0,
     "The iterator of the current pass; None before it begins."},
    {"_position", T_PYSSIZET, offsetof(BatchCursor, position), 0,
     "Batches yielded in the current pass."},
    {"_epoch", T_LONGLONG, offsetof(BatchCursor, epoch), 0, "Finished passes."},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot cursor_slots[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(cursor_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(cursor_clear)},
    {Py_tp_dealloc, reinterpret_cast<void*>(cursor_dealloc)},
    {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
    {Py_tp_iternext, reinterpret_cast<void*>(cursor_next)},
    {Py_tp_members, cursor_members},
    {Py_tp_doc, const_cast<char*>("Fetches and counts batches; the native base of IterLoader.")},
    {0, nullptr},
};

PyType_Spec cursor_spec = {"hookrun._native.BatchCursor", sizeof(BatchCursor), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           cursor_slots};

}  // namespace

bool is_batch_cursor(PyObject* object) { return PyObject_TypeCheck(object, cursor_type); }

std::int64_t epoch_of_cursor(PyObject* cursor) { return as_cursor(cursor)->epoch; }

void bind_batch_cursor(py::module_& module) {
  cursor_type =
      reinterpret_cast<PyTypeObject*>(steal(PyType_FromSpec(&cursor_spec)).release().ptr());
  module.add_object("BatchCursor", reinterpret_cast<PyObject*>(cursor_type));
}

}  // namespace hookrun
