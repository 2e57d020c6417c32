// A small test runner: TEST("what holds, in a sentence") { EXPECT(...); }. A failed EXPECT ends its test and
// tells where; main prints `N passed, N failed` and exits with 1 if any failed.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace kadenz::test {

struct TestCase {
  const char* sentence;
  void (*run)();
};

std::vector<TestCase>& all_tests();

struct Registration {
  Registration(const char* sentence, void (*run)()) { all_tests().push_back({sentence, run}); }
};

[[noreturn]] void fail(const char* file, int line, const std::string& what);

// The code of the HostError that the action throws; fails the test when it throws none.
std::string code_of(const std::function<void()>& action);
std::string sentence_of(const std::function<void()>& action);

}  // namespace kadenz::test

#define KADENZ_JOIN_(a, b) a##b
#define KADENZ_JOIN(a, b) KADENZ_JOIN_(a, b)
#define TEST(sentence)                                                            \
  static void KADENZ_JOIN(test_, __LINE__)();                                     \
  static const ::kadenz::test::Registration KADENZ_JOIN(registration_, __LINE__)( \
      sentence, KADENZ_JOIN(test_, __LINE__));                                    \
  static void KADENZ_JOIN(test_, __LINE__)()
#define EXPECT(condition)                                                   \
  do {                                                                      \
    if (!(condition)) ::kadenz::test::fail(__FILE__, __LINE__, #condition); \
  } while (false)
#define EXPECT_NOTE(condition, note)                                                                     \
  do {                                                                                                   \
    if (!(condition)) ::kadenz::test::fail(__FILE__, __LINE__, std::string(#condition) + ": " + (note)); \
  } while (false)
