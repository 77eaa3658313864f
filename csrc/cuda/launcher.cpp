#include "launcher.hpp"

#include <utility>

namespace hookrun::cuda {
namespace {

constexpr std::uint64_t kAlignment = 16;  // what Triton compiles for where all pointers have it

std::string parameter(std::size_t number, const std::string& kernel) {
  return "parameter " + std::to_string(number) + " of the kernel " + kernel;
}

}  // namespace

Kernel::Kernel(std::shared_ptr<const Driver> driver, const void* cubin, std::string name,
               unsigned threads, unsigned shared_bytes)
    : driver_(std::move(driver)),
      name_(std::move(name)),
      threads_(threads),
      shared_bytes_(shared_bytes),
      context_(driver_->current_context()) {
  if (context_ == nullptr) {
    throw Error("the kernel " + name_ +
                " cannot be loaded: no CUDA context is current; use the device first, such as by "
                "making a tensor on it");
  }
  function_ = driver_->find_function(driver_->load_module(cubin, name_), name_);
  driver_->allow_shared_memory(function_, shared_bytes_, name_);
}

void Kernel::check_parameters(const std::vector<int>& sizes) const {
  for (std::size_t i = 0; i <= sizes.size(); ++i) {
    const int expected = i < sizes.size() ? sizes[i] : 0;
    const int actual = driver_->parameter_size(function_, i);
    if (actual < 0 || actual == expected) continue;
    throw Error(parameter(i, name_) + " has " + std::to_string(actual) + " bytes, not " +
                std::to_string(expected) +
                ": this version of Triton passes arguments in another way, and "
                "HOOKRUN_LAUNCHER=triton launches by its own");
  }
}

Launch::Launch(std::shared_ptr<const Kernel> kernel, unsigned grid, std::vector<Argument> arguments)
    : kernel_(std::move(kernel)), grid_(grid), arguments_(std::move(arguments)) {
  if (grid_ == 0) throw Error("the kernel " + kernel_->name() + " has a grid without blocks");
  std::vector<int> sizes;
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    check(i);
    sizes.push_back(arguments_[i].size);
    parameters_.push_back(&arguments_[i].value);
  }
  kernel_->check_parameters(sizes);
}

void Launch::set_pointer(std::size_t number, Address address) {
  Argument& argument = arguments_.at(number);
  if (argument.value == address) return;
  const Address before = std::exchange(argument.value, address);
  try {
    check(number);
  } catch (...) {
    argument.value = before;
    throw;
  }
}

// A kernel that was compiled for aligned addresses reads other memory at unaligned ones, or traps.
void Launch::check(std::size_t number) const {
  const Argument& argument = arguments_[number];
  if (!argument.aligned || argument.value % kAlignment == 0) return;
  throw Error(parameter(number, kernel_->name()) + " is " + std::to_string(argument.value) +
              ", but the kernel was compiled for multiples of 16: prepare the launch anew");
}

void LaunchSequence::add(std::shared_ptr<const Kernel> kernel, unsigned grid,
                         std::vector<Argument> arguments, std::vector<int> varying) {
  if (!entries_.empty() && kernel->context() != entries_[0].launch->kernel().context()) {
    throw Error("the kernel " + kernel->name() + " is loaded on another device than " +
                entries_[0].launch->kernel().name());
  }
  for (const int number : varying) {
    if (number >= static_cast<int>(arguments.size())) {
      throw Error("there is no " + parameter(static_cast<std::size_t>(number), kernel->name()));
    }
  }
  auto launch = std::make_unique<Launch>(std::move(kernel), grid, std::move(arguments));
  entries_.push_back({std::move(launch), std::move(varying)});
}

void LaunchSequence::run(Stream stream, const std::vector<Address>& addresses) {
  const std::lock_guard<std::mutex> alone(running_);
  if (entries_.empty()) return;
  // Everything is checked before the first kernel starts.
  for (const Entry& entry : entries_) {
    if (entry.varying.size() != addresses.size()) {
      throw Error("the launches vary in " + std::to_string(entry.varying.size()) +
                  " addresses, but " + std::to_string(addresses.size()) + " are given");
    }
    for (std::size_t i = 0; i < addresses.size(); ++i) {
      if (entry.varying[i] < 0) continue;
      entry.launch->set_pointer(static_cast<std::size_t>(entry.varying[i]), addresses[i]);
    }
  }
  const CurrentContext current(*driver_, entries_[0].launch->kernel().context());
  for (const Entry& entry : entries_) entry.launch->run(stream);
}

}  // namespace hookrun::cuda
