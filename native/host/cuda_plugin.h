// The CUDA part of the host is a shared library of its own (native/cuda), opened when a CUDA device is asked
// for and never before: the addon loads on a machine with neither CUDA nor a GPU. It is not closed again; a
// CUDA context doesn't survive that.
//
// Library and addon are built together and share C++ types, so the library tells which build it is.
#pragma once

#include <memory>
#include <string>

#include "host/device.h"
#include "host/options.h"

namespace kadenz {

// Raised with every change of what crosses the border: Device, Ops, HostOptions, HostError.
inline constexpr int kCudaPluginVersion = 2;

struct CudaProbe {
  uint32_t device_index = 0;
  bool certify = false;  // run the matmuls' self-test; takes a second and a CUDA context
};

// Throws HostError: cuda_plugin_missing, cuda_unavailable (no driver, no GPU), cublaslt_missing,
// matmul_not_certified, unsupported_dtype, out_of_memory, device_error.
std::unique_ptr<Device> open_cuda_device(const HostOptions& options);

// What there is and what is missing, as JSON (docs/gpu.md). Throws nothing but std::bad_alloc.
std::string probe_cuda(const std::string& plugin_path, const CudaProbe& probe);

// What the library exports, by these names.
using CudaPluginVersionFunction = int();
using OpenCudaDeviceFunction = Device*(const HostOptions&);
using ProbeCudaFunction = std::string(const CudaProbe&);
inline constexpr const char* kCudaPluginVersionName = "kadenz_cuda_plugin_version";
inline constexpr const char* kOpenCudaDeviceName = "kadenz_open_cuda_device";
inline constexpr const char* kProbeCudaName = "kadenz_probe_cuda";

}  // namespace kadenz
