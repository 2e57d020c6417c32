#include <atomic>
#include <vector>

#include "check.h"
#include "cpu/cpu_ops.h"
#include "cpu/thread_pool.h"

namespace kadenz::test {

TEST("the thread pool runs each task once, on threads of its own numbers, round after round") {
  for (const uint32_t threads : {1U, 2U, 3U, 8U}) {
    ThreadPool pool(threads);
    EXPECT(pool.num_threads() == threads);
    for (uint32_t count = 0; count < 300; ++count) {
      std::vector<std::atomic<uint32_t>> runs(count);
      std::vector<std::atomic<uint32_t>> busy(threads);
      std::atomic<bool> fine{true};
      pool.run(count, [&](uint32_t task, uint32_t thread) {
        if (thread >= threads || busy[thread].fetch_add(1) != 0) fine = false;
        runs[task].fetch_add(1);
        busy[thread].fetch_sub(1);
      });
      EXPECT(fine.load());
      for (const std::atomic<uint32_t>& run : runs) EXPECT(run.load() == 1);
    }
  }
}

TEST("an unknown or unavailable instruction set is refused by name") {
  const char* before = std::getenv("KADENZ_CPU_ISA");
  const std::string saved = before == nullptr ? "" : before;
  ::setenv("KADENZ_CPU_ISA", "avx1024", 1);
  const std::string code = code_of([] { choose_cpu_isa({}); });
  ::setenv("KADENZ_CPU_ISA", "scalar", 1);
  const CpuIsa chosen = choose_cpu_isa({});
  if (before == nullptr) {
    ::unsetenv("KADENZ_CPU_ISA");
  } else {
    ::setenv("KADENZ_CPU_ISA", saved.c_str(), 1);
  }
  EXPECT(code == "unsupported_cpu_isa");
  EXPECT(chosen == CpuIsa::kScalar);
}

TEST("work beside the decoder runs on the same threads, each piece once") {
  const std::unique_ptr<Ops> ops = make_cpu_ops({3, {}});
  std::vector<std::atomic<uint32_t>> runs(1000);
  ops->parallel_for(1000, [&](uint32_t task) { runs[task].fetch_add(1); });
  for (const std::atomic<uint32_t>& run : runs) EXPECT(run.load() == 1);
}

}  // namespace kadenz::test
