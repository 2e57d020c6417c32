// One GPU as a device of the host: its operations, its sampling, its graphs, and what makes its bits.
#pragma once

#include <memory>

#include "host/device.h"
#include "host/options.h"

namespace kadenz::cuda {

// Throws HostError: cuda_unavailable, cublaslt_missing, matmul_not_certified, unsupported_dtype,
// unsupported_model, out_of_memory, device_error.
std::unique_ptr<Device> make_cuda_device(const HostOptions& options);

}  // namespace kadenz::cuda
