// The least that C++ tests need: TEST(name) { CHECK(condition); }. main.cpp runs them all.
#pragma once

#include <cstdio>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

inline void verify(bool holds, const char* condition, const char* file, int line) {
  if (holds) return;
  ++failures();
  std::printf("%s:%d: %s does not hold\n", file, line, condition);
}

}  // namespace check

#define TEST(name)                                                   \
  static void name();                                                \
  static const check::Registration registration_##name(#name, name); \
  static void name()

#define CHECK(condition) check::verify((condition), #condition, __FILE__, __LINE__)
