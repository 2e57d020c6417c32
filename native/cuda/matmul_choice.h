// Times the algorithms that a matmul may use and names the fastest. All of them have equal bits (the
// certificate saw to that), so the choice may differ from run to run and change nothing but time.
#pragma once

#include <cstdint>
#include <span>

#include "cuda/matmul_problem.h"

namespace kadenz::cuda {

struct MatmulChoice {
  uint64_t index = 0;
  float microseconds = 0.0F;  // 0: not timed, because the device had no memory left to time in
};

// Each algorithm runs once to warm up, then three times with a cold L2, as a step finds it, and its median
// counts. Overwrites memory.output; waits for the stream.
MatmulChoice fastest(const MatmulProblem& problem, std::span<const MatmulAlgorithm> algorithms,
                     const MatmulMemory& memory, cudaStream_t stream);

// The same on operands allocated for the purpose; memory.weight may be the real weight or null, memory.input
// and memory.output are null. The GPU should be idle.
MatmulChoice fastest_on_stand_ins(const MatmulProblem& problem, std::span<const MatmulAlgorithm> algorithms,
                                  MatmulMemory memory);

}  // namespace kadenz::cuda
