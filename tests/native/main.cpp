#include "check.hpp"

int main() {
  for (const check::Test& test : check::tests()) {
    const int before = check::failures();
    test.run();
    if (check::failures() > before) std::printf("FAILED %s\n", test.name);
  }
  std::printf("%zu C++ tests, %d checks failed\n", check::tests().size(), check::failures());
  return check::failures() == 0 && !check::tests().empty() ? 0 : 1;
}
