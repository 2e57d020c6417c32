// A CUDA call that fails becomes HostError("device_error") with the call, the error's name and its sentence.
// Launches are checked for what can be known at once; what a kernel does wrong shows when its step is waited
// for.
#pragma once

#include <cuda_runtime_api.h>

namespace kadenz::cuda {

void check(cudaError_t error, const char* call);
void check_launch(const char* kernel);  // of the launch just made by this thread

}  // namespace kadenz::cuda
