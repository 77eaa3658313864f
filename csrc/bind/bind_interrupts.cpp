// Calls that Python's signal handlers, such as Ctrl-C's, do not interrupt.
#include "interrupts.hpp"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <exception>
#include <memory>

#include "../core/held_signals.hpp"

namespace hookrun {
namespace {

// Null while handlers may run. Used by the main thread only: Python runs handlers in no other.
std::unique_ptr<HeldSignals> held;

bool in_main_thread() {
#ifdef __linux__
  return syscall(SYS_gettid) == getpid();
#else
  const py::module_ threading = py::module_::import("threading");
  return threading.attr("current_thread")().is(threading.attr("main_thread")());
#endif
}

// Runs the handlers of the signals that have come. Throws what one of them raises; `pending`, an
// error that was about to be thrown, becomes its context.
void run_handlers(const std::exception_ptr& pending = nullptr) {
  if (PyErr_CheckSignals() == 0) return;
  const py::error_already_set raised;
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const py::error_already_set& first) {
    PyException_SetContext(raised.value().ptr(), first.value().inc_ref().ptr());
  } catch (...) {  // a C++ exception, which cannot be a context
  }
  throw raised;
}

py::object call(const py::args& given) {
  if (given.empty() || PyCallable_Check(given[0].ptr()) == 0) {
    throw py::type_error("the first argument must be the function to call");
  }
  const py::object rest = steal(PyTuple_GetSlice(given.ptr(), 1, PyTuple_GET_SIZE(given.ptr())));
  return steal(PyObject_Call(given[0].ptr(), rest.ptr(), nullptr));
}

// Calls `before`, the function and `after`, which runs even if the function fails. Then the
// handlers run of the signals that came before `after`.
template <class Before, class After>
py::object call_between(const py::args& given, Before before, After after) {
  py::object result;
  std::exception_ptr error;
  before();
  try {
    run_handlers();
    result = call(given);
  } catch (...) {
    error = std::current_exception();
  }
  after();
  run_handlers(error);
  if (error) std::rethrow_exception(error);
  return result;
}

py::object uninterrupted(const py::args& given) {
  if (held != nullptr || !in_main_thread()) return call(given);
  return call_between(given, [] { held = std::make_unique<HeldSignals>(); }, [] { held.reset(); });
}

py::object interruptible(const py::args& given) {
  if (held == nullptr || !in_main_thread()) return call(given);
  return call_between(given, [] { held.reset(); }, [] { held = std::make_unique<HeldSignals>(); });
}

py::object interrupted_by_second(const py::args& given) {
  if (held == nullptr || !in_main_thread()) return call(given);
  return call_between(
      given, [] { held->let_second_through(true); }, [] { held->let_second_through(false); });
}

}  // namespace

void bind_interrupts(py::module_& module) {
  module.def("uninterrupted", &uninterrupted);
  module.def("interruptible", &interruptible);
  module.def("interrupted_by_second", &interrupted_by_second);
}

}  // namespace hookrun
