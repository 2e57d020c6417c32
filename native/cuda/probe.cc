#include "cuda/probe.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <fstream>
#include <type_traits>

namespace kadenz::cuda {
namespace {

constexpr const char* kDriverLibrary = "libcuda.so.1";
constexpr int32_t kLeastMajor = 8;  // compute capability 8.0, the oldest that kernels are built for

struct Driver {
  PFN_cuInit_v2000 init;
  PFN_cuDriverGetVersion_v2020 version;
  PFN_cuGetErrorString_v6000 error_string;
  PFN_cuDeviceGetCount_v2000 count;
  PFN_cuDeviceGet_v2000 device;
  PFN_cuDeviceGetName_v2000 name;
  PFN_cuDeviceGetAttribute_v2000 attribute;
  PFN_cuDeviceTotalMem_v3020 total_memory;
  PFN_cuDeviceGetPCIBusId_v4010 pci_bus_id;
  PFN_cuDevicePrimaryCtxRetain_v7000 retain_context;
  PFN_cuDevicePrimaryCtxRelease_v11000 release_context;
  PFN_cuCtxPushCurrent_v4000 push_context;
  PFN_cuCtxPopCurrent_v4000 pop_context;
  PFN_cuMemGetInfo_v3020 memory;
};

// The names that libcuda exports: the suffix belongs to the function's interface, not to its version.
const char* look_up(void* library, Driver& driver) {
  const char* missing = nullptr;
  const auto find = [&](const char* name, auto& function) {
    void* found = ::dlsym(library, name);
    if (found == nullptr && missing == nullptr) missing = name;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
  };
  find("cuInit", driver.init);
  find("cuDriverGetVersion", driver.version);
  find("cuGetErrorString", driver.error_string);
  find("cuDeviceGetCount", driver.count);
  find("cuDeviceGet", driver.device);
  find("cuDeviceGetName", driver.name);
  find("cuDeviceGetAttribute", driver.attribute);
  find("cuDeviceTotalMem_v2", driver.total_memory);
  find("cuDeviceGetPCIBusId", driver.pci_bus_id);
  find("cuDevicePrimaryCtxRetain", driver.retain_context);
  find("cuDevicePrimaryCtxRelease_v2", driver.release_context);
  find("cuCtxPushCurrent_v2", driver.push_context);
  find("cuCtxPopCurrent_v2", driver.pop_context);
  find("cuMemGetInfo_v2", driver.memory);
  return missing;
}

std::string error_text(const Driver& driver, CUresult result) {
  const char* text = nullptr;
  if (driver.error_string(result, &text) == CUDA_SUCCESS && text != nullptr) return text;
  return "error " + std::to_string(static_cast<int>(result));
}

// The kernel module's release, from the one line that names it: "... Kernel Module  580.159.04  Release ...".
std::string driver_release() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string word;
  while (file >> word) {
    const bool numeric = word.find_first_not_of("0123456789.") == std::string::npos;
    if (numeric && word.find('.') != std::string::npos) return word;
  }
  return "";
}

std::optional<uint64_t> free_bytes(const Driver& driver, CUdevice device, std::string& problem) {
  CUcontext context = nullptr;
  CUresult result = driver.retain_context(&context, device);
  size_t free = 0;
  size_t total = 0;
  if (result == CUDA_SUCCESS) {
    result = driver.push_context(context);
    if (result == CUDA_SUCCESS) {
      result = driver.memory(&free, &total);
      CUcontext popped = nullptr;
      driver.pop_context(&popped);
    }
    driver.release_context(device);
  }
  if (result == CUDA_SUCCESS) return free;
  problem = "could not be used (" + error_text(driver, result) + "). Another process may hold it.";
  return std::nullopt;
}

void describe(const Driver& driver, int32_t index, const ProbeOptions& options, CudaProbe& probe) {
  GpuDescription gpu;
  gpu.index = index;
  CUdevice device = 0;
  char name[256] = {};
  char bus[64] = {};
  size_t total = 0;
  const auto attribute = [&](int32_t& value, CUdevice_attribute which) {
    int read = 0;
    const CUresult result = driver.attribute(&read, which, device);
    value = read;
    return result;
  };
  CUresult first = CUDA_SUCCESS;
  const auto keep = [&first](CUresult result) {
    if (first == CUDA_SUCCESS) first = result;
  };
  keep(driver.device(&device, index));
  if (first == CUDA_SUCCESS) {
    keep(driver.name(name, sizeof name - 1, device));
    keep(driver.pci_bus_id(bus, sizeof bus - 1, device));
    keep(driver.total_memory(&total, device));
    keep(attribute(gpu.compute_capability_major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR));
    keep(attribute(gpu.compute_capability_minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
    keep(attribute(gpu.num_multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
  }
  const std::string label =
      "GPU " + std::to_string(index) + (name[0] == 0 ? "" : std::string(" (") + name + ")");
  if (first != CUDA_SUCCESS) {
    probe.problems.push_back(label + " could not be read (" + error_text(driver, first) + ").");
    return;
  }
  gpu.name = name;
  gpu.pci_bus_id = bus;
  gpu.total_bytes = total;
  if (gpu.compute_capability_major < kLeastMajor) {
    probe.problems.push_back(
        label + " has compute capability " + std::to_string(gpu.compute_capability_major) + "." +
        std::to_string(gpu.compute_capability_minor) + "; Kadenz needs 8.0 (Ampere) or newer.");
  }
  if (options.with_free_memory) {
    std::string problem;
    gpu.free_bytes = free_bytes(driver, device, problem);
    if (!problem.empty()) probe.problems.push_back(label + " " + problem);
  }
  probe.gpus.push_back(gpu);
}

void ask_driver(void* library, const ProbeOptions& options, CudaProbe& probe) {
  Driver driver{};
  const char* missing = look_up(library, driver);
  if (missing != nullptr) {
    probe.problems.push_back(std::string("The NVIDIA driver's library has no ") + missing +
                             "; the driver is too old.");
    return;
  }
  Dl_info origin{};
  if (::dladdr(reinterpret_cast<void*>(driver.init), &origin) != 0) probe.driver_path = origin.dli_fname;
  const CUresult versioned = driver.version(&probe.driver_version);
  if (versioned != CUDA_SUCCESS) {
    probe.problems.push_back("The NVIDIA driver does not tell its version (" + error_text(driver, versioned) +
                             ").");
  } else if (probe.driver_version / 1000 < probe.runtime_version / 1000) {
    probe.problems.push_back("The NVIDIA driver serves CUDA " + cuda_version_text(probe.driver_version) +
                             "; Kadenz was built with CUDA " + cuda_version_text(probe.runtime_version) +
                             ", so a newer driver is needed.");
  }
  const CUresult started = driver.init(0);
  if (started == CUDA_ERROR_NO_DEVICE) {
    probe.problems.push_back("The NVIDIA driver is here but sees no GPU. In a container, pass the GPU in.");
    return;
  }
  if (started != CUDA_SUCCESS) {
    probe.problems.push_back("The NVIDIA driver could not start (" + error_text(driver, started) + ").");
    return;
  }
  int count = 0;
  const CUresult counted = driver.count(&count);
  if (counted != CUDA_SUCCESS) {
    probe.problems.push_back("The NVIDIA driver could not count its GPUs (" + error_text(driver, counted) +
                             ").");
    return;
  }
  if (count == 0)
    probe.problems.push_back("The NVIDIA driver shows no GPU; CUDA_VISIBLE_DEVICES may hide it.");
  for (int32_t index = 0; index < count; ++index) describe(driver, index, options, probe);
}

}  // namespace

CudaProbe probe_cuda(const ProbeOptions& options) noexcept {
  CudaProbe probe;
  if (cudaRuntimeGetVersion(&probe.runtime_version) != cudaSuccess) probe.runtime_version = CUDART_VERSION;
  probe.driver_release = driver_release();
  void* library = ::dlopen(kDriverLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    probe.problems.push_back(std::string("No NVIDIA driver was found: ") +
                             (reason != nullptr ? reason : kDriverLibrary) + ".");
    return probe;
  }
  probe.driver_found = true;
  ask_driver(library, options, probe);
  return probe;  // the library stays open: the runtime uses it
}

std::string cuda_version_text(int32_t version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace kadenz::cuda
