// The part of DLPack 1.x that reads a tensor without owning it. These are C structures with a fixed
// layout, so a torch that was not there when this was compiled can be read all the same.
#pragma once

#include <cstdint>

namespace hookrun::dlpack {

enum DeviceType : std::int32_t { kCpu = 1 };
enum TypeCode : std::uint8_t { kFloat = 2, kBFloat = 4, kBool = 6 };

struct Device {
  std::int32_t type;
  std::int32_t index;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};

struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  // 0, or -1 with a Python error set. The tensor is valid as long as the object lives unchanged.
  int (*tensor_from_object)(void* object, Tensor* out);
  void* current_stream;
};

}  // namespace hookrun::dlpack
