// The launcher in Python: hookrun._native.cuda.
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "../cuda/launcher.hpp"
#include "../cuda/upload.hpp"
#include "launcher.hpp"

namespace hookrun {
namespace {

using Argument = std::tuple<std::uint64_t, int, bool>;

cuda::Stream stream_of(std::uintptr_t stream) { return reinterpret_cast<cuda::Stream>(stream); }

void add(cuda::LaunchSequence& sequence, std::shared_ptr<cuda::Kernel> kernel, unsigned grid,
         const std::vector<Argument>& arguments, std::vector<int> varying) {
  std::vector<cuda::Argument> prepared;
  for (const auto& [value, size, aligned] : arguments) prepared.push_back({value, size, aligned});
  sequence.add(std::move(kernel), grid, std::move(prepared), std::move(varying));
}

}  // namespace

void bind_launcher(py::module_& parent) {
  using namespace py::literals;
  py::module_ module = parent.def_submodule("cuda", "Launching compiled kernels; see csrc/cuda.");
  py::class_<cuda::Driver, std::shared_ptr<cuda::Driver>>(module, "Driver", py::is_final())
      .def(py::init<const std::string&>(), "library"_a)
      .def_property_readonly("library", &cuda::Driver::library);
  py::class_<cuda::Kernel, std::shared_ptr<cuda::Kernel>>(module, "Kernel", py::is_final())
      .def(py::init([](std::shared_ptr<cuda::Driver> driver, const py::bytes& cubin,
                       std::string name, unsigned threads, unsigned shared_bytes) {
             return std::make_shared<cuda::Kernel>(std::move(driver),
                                                   PyBytes_AS_STRING(cubin.ptr()), std::move(name),
                                                   threads, shared_bytes);
           }),
           "driver"_a, "cubin"_a, "name"_a, "threads"_a, "shared_bytes"_a);
  py::class_<cuda::LaunchSequence>(module, "LaunchSequence", py::is_final())
      .def(py::init<std::shared_ptr<cuda::Driver>>(), "driver"_a)
      .def("add", &add, "kernel"_a, "grid"_a, "arguments"_a, "varying"_a)
      .def("__len__", &cuda::LaunchSequence::size)
      .def(
          "run",
          [](cuda::LaunchSequence& self, std::uintptr_t stream,
             const std::vector<cuda::Address>& addresses) {
            self.run(stream_of(stream), addresses);
          },
          "stream"_a, "addresses"_a, py::call_guard<py::gil_scoped_release>());
  py::class_<cuda::UploadRing>(module, "UploadRing", py::is_final())
      .def(py::init([](std::shared_ptr<cuda::Driver> driver, std::uintptr_t memory,
                       std::size_t block_bytes, std::size_t blocks) {
             return std::make_unique<cuda::UploadRing>(
                 std::move(driver), reinterpret_cast<void*>(memory), block_bytes, blocks);
           }),
           "driver"_a, "memory"_a, "block_bytes"_a, "blocks"_a)
      .def(
          "send",
          [](cuda::UploadRing& self, cuda::Address to, std::uintptr_t from, std::size_t bytes,
             std::uintptr_t stream) {
            return self.send(to, reinterpret_cast<const void*>(from), bytes, stream_of(stream));
          },
          "to"_a, "from_address"_a, "bytes"_a, "stream"_a);
}

}  // namespace hookrun
