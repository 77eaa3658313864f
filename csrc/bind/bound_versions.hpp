// The versions of tensors that a step writes, which autograd compares with those it has saved.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "python.hpp"

namespace hookrun {

class BoundVersions {
 public:
  BoundVersions() = default;
  // Of a list of tensors, which stay the same objects with the same memory.
  explicit BoundVersions(const py::list& tensors);

  // Increases all of them.
  void bump() const;

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(tensors_.ptr());
    return 0;
  }

 private:
  py::object tensors_;                                  // a tuple
  std::vector<std::atomic<std::uint32_t>*> addresses_;  // empty: not known
};

}  // namespace hookrun
