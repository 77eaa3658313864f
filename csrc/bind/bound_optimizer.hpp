// What a step plan knows of torch's SGD, Adam and AdamW: their state, their options, their kernel.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../cpu/ops.hpp"
#include "python.hpp"

namespace hookrun {

class BoundOptimizer {
 public:
  virtual ~BoundOptimizer() = default;

  // Names of the state tensors, in the order of the kernel's columns.
  virtual const std::vector<PyObject*>& state_names() const = 0;
  // The name of the step count in a parameter's state; null if there is none.
  virtual PyObject* step_name() const = 0;

  std::size_t copy_column() const { return 2 + state_names().size(); }
  std::size_t ema_column() const { return 3 + state_names().size(); }

  // Begins a step: forgets the groups and rows of the last one.
  virtual void clear() = 0;
  // Reads the options of the next group, a dict. Throws what reading them raises.
  virtual void read_group(PyObject* group) = 0;
  // Adds the next row of the list, of the group that `row.group` counts. Returns false where the
  // kernel needs state that the row lacks.
  //   count  the step that the parameter now takes, from 1; 0 where there is no step count.
  virtual bool add_row(cpu::Row& row, double count) = 0;
  // Writes a group's options as the kernels of a device read them: see kernels/triton/control.py.
  // Throws Mismatch for an option that is no plain number: reading a tensor may wait for a device.
  //   line  kOptions numbers
  virtual void write_options(PyObject* group, double* line) const = 0;
  static constexpr std::size_t kOptions = 8;

  // Runs the kernel on the rows that were added. Call it without the GIL.
  virtual void run(const cpu::TensorList& list, const cpu::StepOptions& options, int threads) = 0;
};

std::unique_ptr<BoundOptimizer> make_bound_sgd();
std::unique_ptr<BoundOptimizer> make_bound_adam();

}  // namespace hookrun
