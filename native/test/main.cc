#include <cstdio>
#include <cstring>
#include <exception>

#include "check.h"
#include "model/error.h"
#include "random.h"

namespace kadenz::test {

std::vector<TestCase>& all_tests() {
  static std::vector<TestCase> tests;
  return tests;
}

void fail(const char* file, int line, const std::string& what) {
  const char* name = std::strrchr(file, '/');
  throw std::runtime_error(std::string(name == nullptr ? file : name + 1) + ":" + std::to_string(line) +
                           ": " + what);
}

std::string code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const HostError& error) {
    return error.code();
  }
  throw std::runtime_error("no HostError was thrown");
}

std::string sentence_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const HostError& error) {
    return error.what();
  }
  throw std::runtime_error("no HostError was thrown");
}

}  // namespace kadenz::test

// Usage: native_tests [part of a sentence]
int main(int argc, char** argv) {
  std::printf("seed %llu (KADENZ_NATIVE_SEED)\n", static_cast<unsigned long long>(kadenz::test::base_seed()));
  int passed = 0;
  int failed = 0;
  for (const kadenz::test::TestCase& test : kadenz::test::all_tests()) {
    if (argc > 1 && std::strstr(test.sentence, argv[1]) == nullptr) continue;
    try {
      test.run();
      ++passed;
      std::printf("ok      %s\n", test.sentence);
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED  %s\n        %s\n", test.sentence, error.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
