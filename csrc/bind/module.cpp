#include "action.hpp"
#include "batch_cursor.hpp"
#include "bind_cpu.hpp"
#include "bind_parameters.hpp"
#include "device_plan.hpp"
#include "dispatcher.hpp"
#include "interrupts.hpp"
#include "launcher.hpp"
#include "log_buffer.hpp"
#include "loop.hpp"
#include "run_state.hpp"
#include "schedule.hpp"
#include "step_plan.hpp"
#include "timer.hpp"

PYBIND11_MODULE(_native, module) {
  module.doc() = "The compiled core of hookrun.";
  hookrun::bind_run_state(module);
  hookrun::bind_action(module);
  hookrun::bind_log_buffer(module);
  hookrun::bind_dispatch(module);
  hookrun::bind_batch_cursor(module);
  hookrun::bind_loop(module);
  hookrun::bind_schedule(module);
  hookrun::bind_timer(module);
  hookrun::bind_interrupts(module);
  hookrun::bind_cpu(module);
  hookrun::bind_step_plan(module);
  hookrun::bind_parameters(module);
  hookrun::bind_device_plan(module);
  hookrun::bind_launcher(module);
}
