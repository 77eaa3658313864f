// A stand-in for the CUDA driver library: it checks the arguments of the entry points that a launch
// needs, counts the calls and records the launches. It plays two devices and runs no kernel, so it
// proves nothing about kernels or about a real driver: it is for the host's time and for what the
// host passes on.
//
// Copies are made, since the "device memory" of tests is the host's. What tests use to steer it
// begins with `stand_in_`; `library.py` is its face.
#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kInvalidContext = 201,
  kNoBinaryForGpu = 209,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
};

constexpr int kDevices = 2;
constexpr int kMaxParameters = 16;
constexpr unsigned kMaxThreads = 1024, kMaxGrid = 0x7fffffff;
constexpr unsigned kFreeSharedBytes = 48 * 1024, kMaxSharedBytes = 227 * 1024;

struct Context {
  int device;
};
struct Stream {
  int device;
};
struct Event {
  int device;
};
struct Module {
  int device;
  const unsigned char* image;
};
struct Function {
  int device;
  std::string name;
  std::vector<std::pair<unsigned, unsigned>> parameters;  // offset and size, in bytes
  unsigned shared_bytes = kFreeSharedBytes;
};
struct Launch {
  char kernel[64];
  std::int32_t device, parameters;
  std::uint64_t stream;
  std::uint32_t grid[3], threads[3], shared_bytes;
  std::uint32_t sizes[kMaxParameters];
  std::uint64_t values[kMaxParameters];
};

Context contexts[kDevices] = {{0}, {1}};
thread_local std::vector<Context*> stack = {&contexts[0]};
std::set<void*> streams, events, modules, functions;
std::vector<Launch> launches;
std::map<std::string, std::uint64_t> counts;
std::vector<std::pair<std::uint64_t, std::uint64_t>> allocated;  // begin, end; empty: any
bool recording = true, events_pending = false;
std::string failing;
int failure = kSuccess;

int device() { return stack.empty() ? -1 : stack.back()->device; }

// Counts a call; the result that tests have asked for, once.
int begin(const char* entry) {
  if (!recording) return kSuccess;
  ++counts[entry];
  if (failing != entry) return kSuccess;
  failing.clear();
  return failure;
}

bool known(const std::set<void*>& handles, void* handle) { return handles.count(handle) != 0; }

// Offsets and sizes of a kernel's parameters, from the attributes that the assembler writes.
bool read_parameters(const unsigned char* image, Function* function) {
  if (std::memcmp(image, ELFMAG, SELFMAG) != 0) return false;
  const auto* file = reinterpret_cast<const Elf64_Ehdr*>(image);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image + file->e_shoff);
  const auto* names = reinterpret_cast<const char*>(image + sections[file->e_shstrndx].sh_offset);
  bool found = false;
  for (int i = 0; i < file->e_shnum; ++i) {
    const std::string name = names + sections[i].sh_name;
    if (name == ".text." + function->name) found = true;
    if (name != ".nv.info." + function->name) continue;
    const unsigned char* at = image + sections[i].sh_offset;
    const unsigned char* end = at + sections[i].sh_size;
    while (at < end) {
      constexpr unsigned char kSized = 4, kParameterInfo = 0x17;
      std::uint16_t size;
      std::memcpy(&size, at + 2, sizeof size);
      if (at[0] == kSized && at[1] == kParameterInfo) {
        std::uint16_t place[2];  // ordinal and offset
        std::uint32_t flags;
        std::memcpy(place, at + 8, sizeof place);
        std::memcpy(&flags, at + 12, sizeof flags);
        auto& parameters = function->parameters;
        if (parameters.size() <= place[0]) parameters.resize(place[0] + 1u);
        parameters[place[0]] = {place[1], flags >> 18};
      }
      at += 4 + (at[0] == kSized ? size : 0);
    }
  }
  return found;
}

bool is_allocated(std::uint64_t address) {
  if (address == 0 || allocated.empty()) return true;
  return std::any_of(allocated.begin(), allocated.end(), [&](const auto& range) {
    return range.first <= address && address < range.second;
  });
}

int check_launch(const Function& function, const unsigned* grid, const unsigned* threads,
                 unsigned shared_bytes, Stream* stream, void** parameters) {
  if (function.device != device()) return kInvalidContext;
  if (stream != nullptr && !known(streams, stream)) return kInvalidHandle;
  if (stream != nullptr && stream->device != device()) return kInvalidContext;
  for (int d = 0; d < 3; ++d) {
    if (grid[d] == 0 || threads[d] == 0 || grid[d] > kMaxGrid) return kInvalidValue;
  }
  if (threads[0] * threads[1] * threads[2] > kMaxThreads) return kInvalidValue;
  if (shared_bytes > function.shared_bytes) return kInvalidValue;
  for (std::size_t i = 0; i < function.parameters.size(); ++i) {
    if (parameters == nullptr || parameters[i] == nullptr) return kInvalidValue;
    std::uint64_t value = 0;  // what has 8 bytes is a pointer, in the kernels of this project
    std::memcpy(&value, parameters[i], function.parameters[i].second);
    if (function.parameters[i].second == 8 && !is_allocated(value)) return kIllegalAddress;
  }
  return kSuccess;
}

int launch(Function* function, const unsigned* grid, const unsigned* threads, unsigned shared_bytes,
           Stream* stream, void** parameters) {
  if (!recording) return kSuccess;
  if (!known(functions, function)) return kInvalidHandle;
  const int result = check_launch(*function, grid, threads, shared_bytes, stream, parameters);
  if (result != kSuccess) return result;
  Launch record = {};
  std::strncpy(record.kernel, function->name.c_str(), sizeof record.kernel - 1);
  record.device = function->device;
  record.stream = reinterpret_cast<std::uintptr_t>(stream);
  std::copy_n(grid, 3, record.grid);
  std::copy_n(threads, 3, record.threads);
  record.shared_bytes = shared_bytes;
  for (const auto& [offset, size] : function->parameters) {
    if (record.parameters == kMaxParameters) return kInvalidValue;
    record.sizes[record.parameters] = size;
    std::memcpy(&record.values[record.parameters], parameters[record.parameters], size);
    ++record.parameters;
  }
  launches.push_back(record);
  return kSuccess;
}

template <class Handle>
Handle* keep(Handle handle, std::set<void*>& handles) {
  auto* made = new Handle(std::move(handle));  // as long as the process, as a driver's
  handles.insert(made);
  return made;
}

}  // namespace

#define ENTRY(name) \
  if (const int result_asked = begin(name); result_asked != kSuccess) return result_asked

extern "C" {

// The driver's entry points.

int cuGetErrorName(int result, const char** name) {
  static const std::map<int, const char*> names = {
      {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
      {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"},
      {kNoBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
      {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE"},
      {kNotFound, "CUDA_ERROR_NOT_FOUND"},
      {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
  const auto found = names.find(result);
  *name = found == names.end() ? nullptr : found->second;
  return found == names.end() ? kInvalidValue : kSuccess;
}

int cuGetErrorString(int result, const char** text) {
  *text = result == kIllegalAddress ? "an illegal memory access was encountered" : "stand-in";
  return kSuccess;
}

int cuInit(unsigned) { return kSuccess; }
int cuDeviceGet(int* out, int number) {
  *out = number;
  return number < kDevices ? kSuccess : kInvalidValue;
}
int cuDeviceGetAttribute(int* out, int, int) {
  *out = static_cast<int>(kMaxSharedBytes);
  return kSuccess;
}
int cuDevicePrimaryCtxRetain(Context** out, int number) {
  *out = &contexts[number];
  return kSuccess;
}
int cuCtxGetCurrent(Context** out) {
  ENTRY("cuCtxGetCurrent");
  *out = stack.empty() ? nullptr : stack.back();
  return kSuccess;
}
int cuCtxSetCurrent(Context* context) {
  stack.assign(1, context);
  return kSuccess;
}
int cuCtxPushCurrent_v2(Context* context) {
  ENTRY("cuCtxPushCurrent");
  stack.push_back(context);
  return kSuccess;
}
int cuCtxPopCurrent_v2(Context** out) {
  ENTRY("cuCtxPopCurrent");
  if (stack.empty()) return kInvalidContext;
  *out = stack.back();
  stack.pop_back();
  return kSuccess;
}
int cuCtxGetLimit(std::size_t* out, int) {
  *out = 0;
  return kSuccess;
}
int cuCtxSetLimit(int, std::size_t) { return kSuccess; }
int cuModuleLoadData(Module** out, const void* image) {
  ENTRY("cuModuleLoadData");
  if (std::memcmp(image, ELFMAG, SELFMAG) != 0) return kNoBinaryForGpu;
  *out = keep(Module{device(), static_cast<const unsigned char*>(image)}, modules);
  return kSuccess;
}
int cuModuleGetFunction(Function** out, Module* module, const char* name) {
  ENTRY("cuModuleGetFunction");
  if (!known(modules, module)) return kInvalidHandle;
  Function function{module->device, name, {}};
  if (!read_parameters(module->image, &function)) return kNotFound;
  *out = keep(std::move(function), functions);
  return kSuccess;
}
int cuFuncGetAttribute(int* out, int attribute, Function*) {
  constexpr int kMaxThreadsPerBlock = 0;
  *out = attribute == kMaxThreadsPerBlock ? static_cast<int>(kMaxThreads) : 0;
  return kSuccess;
}
int cuFuncSetCacheConfig(Function*, int) { return kSuccess; }
int cuFuncSetAttribute(Function* function, int, int value) {
  ENTRY("cuFuncSetAttribute");
  if (value < 0 || static_cast<unsigned>(value) > kMaxSharedBytes) return kInvalidValue;
  function->shared_bytes = static_cast<unsigned>(value);
  return kSuccess;
}
int cuFuncGetParamInfo(Function* function, std::size_t number, std::size_t* offset,
                       std::size_t* size) {
  if (number >= function->parameters.size()) return kInvalidValue;
  *offset = function->parameters[number].first;
  *size = function->parameters[number].second;
  return kSuccess;
}
int cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty,
                   unsigned tz, unsigned shared_bytes, Stream* stream, void** parameters, void**) {
  ENTRY("cuLaunchKernel");
  const unsigned grid[] = {x, y, z}, threads[] = {tx, ty, tz};
  return launch(function, grid, threads, shared_bytes, stream, parameters);
}
// The beginning of the driver's CUlaunchConfig.
struct LaunchConfig {
  unsigned grid[3], threads[3], shared_bytes;
  Stream* stream;
  void* attributes;
  unsigned attribute_count;
};
int cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** parameters, void**) {
  ENTRY("cuLaunchKernelEx");
  if (config->attribute_count != 0) return kInvalidValue;  // no kernel of this project has any
  return launch(function, config->grid, config->threads, config->shared_bytes, config->stream,
                parameters);
}
int cuPointerGetAttribute(void* out, int, std::uint64_t address) {
  std::memcpy(out, &address, sizeof address);
  return kSuccess;
}
int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void* from, std::size_t bytes, Stream* stream) {
  ENTRY("cuMemcpyHtoDAsync");
  if (stream != nullptr && !known(streams, stream)) return kInvalidHandle;
  if (!is_allocated(to)) return kIllegalAddress;
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return kSuccess;
}
int cuEventCreate(Event** out, unsigned) {
  ENTRY("cuEventCreate");
  *out = keep(Event{device()}, events);
  return kSuccess;
}
int cuEventDestroy_v2(Event* event) { return known(events, event) ? kSuccess : kInvalidHandle; }
int cuEventRecord(Event* event, Stream*) {
  ENTRY("cuEventRecord");
  if (!known(events, event)) return kInvalidHandle;
  return event->device == device() ? kSuccess : kInvalidContext;
}
int cuEventQuery(Event* event) {
  ENTRY("cuEventQuery");
  if (!known(events, event)) return kInvalidHandle;
  return events_pending ? kNotReady : kSuccess;
}

// What tests steer it by.

// Forgets what was recorded, which memory is allocated, and what was to fail.
void stand_in_reset() {
  launches.clear();
  counts.clear();
  allocated.clear();
  failing.clear();
  recording = true;
  events_pending = false;
  stack.assign(1, &contexts[0]);
}
// Without recording, entries that launch return at once: for measuring.
void stand_in_record(int on) { recording = on != 0; }
void stand_in_hold_events(int on) { events_pending = on != 0; }
void stand_in_fail(const char* entry, int result) {
  failing = entry;
  failure = result;
}
void stand_in_allocate(std::uint64_t begin, std::uint64_t bytes) {
  allocated.emplace_back(begin, begin + bytes);
}
void stand_in_use_device(int number) {
  stack.clear();
  if (number >= 0) stack.push_back(&contexts[number]);
}
int stand_in_device() { return device(); }
std::uint64_t stand_in_stream(int number) {
  return reinterpret_cast<std::uintptr_t>(keep(Stream{number}, streams));
}
std::uint64_t stand_in_count(const char* entry) { return counts[entry]; }
std::uint64_t stand_in_launch_count() { return launches.size(); }
const Launch* stand_in_launch(std::uint64_t number) { return &launches[number]; }

}  // extern "C"
