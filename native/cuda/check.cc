#include "cuda/check.h"

#include <string>

#include "model/error.h"

namespace kadenz::cuda {

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw HostError("device_error", std::string(call) + " failed: " + cudaGetErrorName(error) + " (" +
                                      cudaGetErrorString(error) + ").");
}

void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace kadenz::cuda
