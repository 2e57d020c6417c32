// The processor as a device: the CPU's operations, and sampling by its logit kernels.
#pragma once

#include <memory>

#include "host/device.h"
#include "host/options.h"

namespace kadenz {

// Throws HostError: unsupported_cpu_isa, invalid_num_threads.
std::unique_ptr<Device> make_cpu_device(const HostOptions& options);

}  // namespace kadenz
