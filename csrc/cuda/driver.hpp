// The CUDA driver library, opened at run time: the few entry points that launching a compiled
// kernel needs, by our own declarations of them. So nothing of CUDA is needed to build this, and a
// machine without a GPU only fails to open the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace hookrun::cuda {

// The driver's handles. It hands them out, and nobody else looks into them.
using Context = struct ContextHandle*;
using Module = struct ModuleHandle*;
using Function = struct FunctionHandle*;
using Stream = struct StreamHandle*;  // null: the current context's default stream
using Event = struct EventHandle*;
using Address = std::uint64_t;  // of memory on a device

// What the driver refuses, or what it must not be asked for. The text says what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Driver {
 public:
  // Opens the library, by a path or by a name that the loader finds. It stays open: functions of
  // it may be called until the process ends. Throws Error where it is not there, or lacks an entry.
  explicit Driver(const std::string& library);

  const std::string& library() const { return library_; }

  Context current_context() const;
  // The current context becomes that one, or what it was before.
  void push_context(Context context) const;
  void pop_context() const noexcept;

  // Loads a cubin into the current context, where it stays.
  Module load_module(const void* cubin, const std::string& kernel) const;
  Function find_function(Module module, const std::string& kernel) const;
  // Permits so much dynamic shared memory, where it is more than what needs no permission.
  void allow_shared_memory(Function function, unsigned bytes, const std::string& kernel) const;
  // The size of a kernel's parameter in bytes; 0: there is none of this number; -1: the driver is
  // older than 12.4 and does not say.
  int parameter_size(Function function, std::size_t number) const;
  void launch(Function function, unsigned grid, unsigned threads, unsigned shared_bytes,
              Stream stream, void** parameters, const std::string& kernel) const;

  // Copies from pinned memory; returns before it is done.
  void copy_to_device(Address to, const void* from, std::size_t bytes, Stream stream) const;

  Event make_event() const;
  void destroy_event(Event event) const noexcept;
  void record_event(Event event, Stream stream) const;
  // Whether all that the stream had to do when the event was recorded has been done.
  bool is_done(Event event) const;

 private:
  using Result = int;
  static constexpr Result kSuccess = 0;
  static constexpr Result kNotReady = 600;

  template <class Entry>
  void find(Entry& entry, const char* name);
  void check(Result result, const char* call, const std::string& about = {}) const;
  std::string text_of(Result result) const;

  std::string library_;
  void* handle_ = nullptr;

  Result (*error_name_)(Result, const char**) = nullptr;
  Result (*error_string_)(Result, const char**) = nullptr;
  Result (*current_context_)(Context*) = nullptr;
  Result (*push_context_)(Context) = nullptr;
  Result (*pop_context_)(Context*) = nullptr;
  Result (*load_module_)(Module*, const void*) = nullptr;
  Result (*find_function_)(Function*, Module, const char*) = nullptr;
  Result (*set_attribute_)(Function, int, int) = nullptr;
  Result (*parameter_info_)(Function, std::size_t, std::size_t*, std::size_t*) = nullptr;
  Result (*launch_)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                    Stream, void**, void**) = nullptr;
  Result (*copy_)(Address, const void*, std::size_t, Stream) = nullptr;
  Result (*make_event_)(Event*, unsigned) = nullptr;
  Result (*destroy_event_)(Event) = nullptr;
  Result (*record_event_)(Event, Stream) = nullptr;
  Result (*query_event_)(Event) = nullptr;
};

// Makes a context the current one for as long as it lives; where it is already, that costs one call
// of the driver.
class CurrentContext {
 public:
  CurrentContext(const Driver& driver, Context context)
      : driver_(driver), pushed_(driver.current_context() != context) {
    if (pushed_) driver_.push_context(context);
  }
  ~CurrentContext() {
    if (pushed_) driver_.pop_context();
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  const Driver& driver_;
  bool pushed_;
};

}  // namespace hookrun::cuda
