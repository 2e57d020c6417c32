#include "cuda/out_of_memory.h"

#include <cuda_runtime_api.h>

#include "cuda/bytes_text.h"
#include "cuda/check.h"

namespace kadenz::cuda {

HostError out_of_memory(uint64_t asked_bytes, const std::string& purpose, const std::string& remedy) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return HostError("out_of_memory", "Not enough device memory for " + purpose + ": " +
                                        bytes_text(asked_bytes) + " asked for, " + bytes_text(free_bytes) +
                                        " of " + bytes_text(total_bytes) + " free. " + remedy);
}

}  // namespace kadenz::cuda
