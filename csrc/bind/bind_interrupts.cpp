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

// Null where handlers may run. Python runs them in the main thread alone, which alone uses it.
std::unique_ptr<HeldSignals> held;

bool in_main_thread() {
#ifdef __linux__
  return syscall(SYS_gettid) == getpid();
#else
  const py::module_ threading = py::module_::import("threading");
  return threading.attr("current_thread")().is(threading.attr("main_thread")());
#endif
}

// Runs the handlers of signals that have come. What one raises is thrown, with the error that was
// on its way already, if there was one, as its context.
void run_handlers(const std::exception_ptr& on_its_way = nullptr) {
  if (PyErr_CheckSignals() == 0) return;
  const py::error_already_set raised;
  try {
    if (on_its_way) std::rethrow_exception(on_its_way);
  } catch (const py::error_already_set& first) {
    PyException_SetContext(raised.value().ptr(), first.value().inc_ref().ptr());
  } catch (...) {  // no error of Python's yet
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

// Calls with `before` and `after` around it, however the call ends; then the handlers run of what
// came before `after`, which may hold back those that come later.
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
