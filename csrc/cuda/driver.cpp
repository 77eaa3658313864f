#include "driver.hpp"

#include <dlfcn.h>

namespace hookrun::cuda {
namespace {

// Dynamic shared memory that every kernel may have; more must be permitted.
constexpr unsigned kFreeSharedBytes = 48 * 1024;
constexpr int kMaxDynamicSharedBytes = 8;    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr unsigned kEventWithoutTiming = 2;  // CU_EVENT_DISABLE_TIMING

std::string loader_error() {
  const char* text = dlerror();
  return text == nullptr ? "the loader does not say why" : text;
}

}  // namespace

Driver::Driver(const std::string& library) : library_(library) {
  handle_ = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ == nullptr) throw Error("the CUDA driver cannot be opened: " + loader_error());
  find(error_name_, "cuGetErrorName");
  find(error_string_, "cuGetErrorString");
  find(current_context_, "cuCtxGetCurrent");
  find(push_context_, "cuCtxPushCurrent_v2");
  find(pop_context_, "cuCtxPopCurrent_v2");
  find(load_module_, "cuModuleLoadData");
  find(find_function_, "cuModuleGetFunction");
  find(set_attribute_, "cuFuncSetAttribute");
  find(launch_, "cuLaunchKernel");
  find(copy_, "cuMemcpyHtoDAsync_v2");
  find(make_event_, "cuEventCreate");
  find(destroy_event_, "cuEventDestroy_v2");
  find(record_event_, "cuEventRecord");
  find(query_event_, "cuEventQuery");
  // Since CUDA 12.4.
  parameter_info_ =
      reinterpret_cast<decltype(parameter_info_)>(dlsym(handle_, "cuFuncGetParamInfo"));
}

template <class Entry>
void Driver::find(Entry& entry, const char* name) {
  entry = reinterpret_cast<Entry>(dlsym(handle_, name));
  if (entry == nullptr) throw Error(library_ + " has no " + name + ": it is no CUDA driver");
}

std::string Driver::text_of(Result result) const {
  const char *name = nullptr, *text = nullptr;
  error_name_(result, &name);
  error_string_(result, &text);
  const std::string number = std::to_string(result);
  return (name == nullptr ? "error " + number : std::string(name) + " (" + number + ")") +
         (text == nullptr ? "" : std::string(": ") + text);
}

void Driver::check(Result result, const char* call, const std::string& about) const {
  if (result == kSuccess) return;
  throw Error(std::string(call) + (about.empty() ? "" : " of " + about) + " failed with " +
              text_of(result) +
              ". Earlier work on the device may have caused it: CUDA_LAUNCH_BLOCKING=1 shows "
              "where; HOOKRUN_LAUNCHER=triton launches through Triton instead");
}

Context Driver::current_context() const {
  Context context = nullptr;
  check(current_context_(&context), "cuCtxGetCurrent");
  return context;
}

void Driver::push_context(Context context) const {
  check(push_context_(context), "cuCtxPushCurrent");
}

void Driver::pop_context() const noexcept {
  Context context = nullptr;
  pop_context_(&context);
}

Module Driver::load_module(const void* cubin, const std::string& kernel) const {
  Module module = nullptr;
  check(load_module_(&module, cubin), "cuModuleLoadData", "the kernel " + kernel);
  return module;
}

Function Driver::find_function(Module module, const std::string& kernel) const {
  Function function = nullptr;
  check(find_function_(&function, module, kernel.c_str()), "cuModuleGetFunction",
        "the kernel " + kernel);
  return function;
}

void Driver::allow_shared_memory(Function function, unsigned bytes,
                                 const std::string& kernel) const {
  if (bytes <= kFreeSharedBytes) return;
  check(set_attribute_(function, kMaxDynamicSharedBytes, static_cast<int>(bytes)),
        "cuFuncSetAttribute", "the kernel " + kernel);
}

int Driver::parameter_size(Function function, std::size_t number) const {
  if (parameter_info_ == nullptr) return -1;
  std::size_t offset = 0, size = 0;
  return parameter_info_(function, number, &offset, &size) == kSuccess ? static_cast<int>(size) : 0;
}

void Driver::launch(Function function, unsigned grid, unsigned threads, unsigned shared_bytes,
                    Stream stream, void** parameters, const std::string& kernel) const {
  const Result result =
      launch_(function, grid, 1, 1, threads, 1, 1, shared_bytes, stream, parameters, nullptr);
  if (result != kSuccess) check(result, "cuLaunchKernel", "the kernel " + kernel);
}

void Driver::copy_to_device(Address to, const void* from, std::size_t bytes, Stream stream) const {
  check(copy_(to, from, bytes, stream), "cuMemcpyHtoDAsync");
}

Event Driver::make_event() const {
  Event event = nullptr;
  check(make_event_(&event, kEventWithoutTiming), "cuEventCreate");
  return event;
}

void Driver::destroy_event(Event event) const noexcept { destroy_event_(event); }

void Driver::record_event(Event event, Stream stream) const {
  check(record_event_(event, stream), "cuEventRecord");
}

bool Driver::is_done(Event event) const {
  const Result result = query_event_(event);
  if (result == kNotReady) return false;
  check(result, "cuEventQuery");
  return true;
}

}  // namespace hookrun::cuda
