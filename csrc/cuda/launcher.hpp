// Launches that are prepared once: a loaded kernel and a buffer of its arguments. A step changes a
// pointer or two in them and hands them to the driver.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "driver.hpp"

namespace hookrun::cuda {

// A kernel of a cubin, loaded into the context that was current then.
class Kernel {
 public:
  // Throws Error where no context is current, or the driver refuses.
  //   cubin         the whole file, read only here
  //   name          of the kernel in it
  //   threads       of a block
  //   shared_bytes  of dynamic shared memory of a block
  Kernel(std::shared_ptr<const Driver> driver, const void* cubin, std::string name,
         unsigned threads, unsigned shared_bytes);

  // Throws Error unless the parameters have these sizes, where the driver knows them.
  void check_parameters(const std::vector<int>& sizes) const;

  void launch(unsigned grid, Stream stream, void** parameters) const {
    driver_->launch(function_, grid, threads_, shared_bytes_, stream, parameters, name_);
  }

  const Driver& driver() const { return *driver_; }
  Context context() const { return context_; }
  const std::string& name() const { return name_; }

 private:
  std::shared_ptr<const Driver> driver_;
  std::string name_;
  unsigned threads_, shared_bytes_;
  Context context_;
  Function function_;
};

// One parameter of a compiled kernel, and its argument.
struct Argument {
  std::uint64_t value = 0;  // an address, or an integer's bits
  int size = 8;             // bytes
  bool aligned = false;     // the kernel was compiled for multiples of 16 only
};

// A kernel and its arguments. Its address must not change: the driver is given pointers into it.
class Launch {
 public:
  // Throws Error where the arguments are not what the kernel was compiled for.
  Launch(std::shared_ptr<const Kernel> kernel, unsigned grid, std::vector<Argument> arguments);
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // Another address for a pointer. Throws Error where the kernel was compiled for aligned ones only
  // and this one is not.
  void set_pointer(std::size_t number, Address address);

  // Starts the kernel on a stream of its device, which must be the current one.
  void run(Stream stream) { kernel_->launch(grid_, stream, parameters_.data()); }

  const Kernel& kernel() const { return *kernel_; }

 private:
  void check(std::size_t number) const;

  std::shared_ptr<const Kernel> kernel_;
  unsigned grid_;
  std::vector<Argument> arguments_;
  std::vector<void*> parameters_;  // where the value of each argument is
};

// Launches that follow each other on one stream.
class LaunchSequence {
 public:
  explicit LaunchSequence(std::shared_ptr<const Driver> driver) : driver_(std::move(driver)) {}

  // Appends a launch; all are of kernels in one context.
  //   varying  the numbers of the parameters that each run sets, in the order of its addresses;
  //            -1 for one that this launch does not have
  void add(std::shared_ptr<const Kernel> kernel, unsigned grid, std::vector<Argument> arguments,
           std::vector<int> varying);

  // Starts all kernels, on their device, whichever is current. Threads take turns.
  //   addresses  of the varying parameters
  void run(Stream stream, const std::vector<Address>& addresses);

  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::unique_ptr<Launch> launch;
    std::vector<int> varying;
  };

  std::shared_ptr<const Driver> driver_;
  std::vector<Entry> entries_;
  std::mutex running_;
};

}  // namespace hookrun::cuda
