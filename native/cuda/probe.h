// What this machine has to run the CUDA host with, for `kadenz doctor` and for the sentence that refuses
// `--device cuda`. Asks the driver's own library, opened at run time, so it answers on a machine with no
// driver too. Creates no context, unless free memory is asked for (about 0.5 GiB on each device, given back
// before it returns). Throws nothing: what is wrong is in `problems`, in plain words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kadenz::cuda {

struct GpuDescription {
  int32_t index = 0;
  std::string name;
  std::string pci_bus_id;  // domain:bus:device.function, as in "0000:1B:00.0"
  int32_t compute_capability_major = 0;
  int32_t compute_capability_minor = 0;
  int32_t num_multiprocessors = 0;
  uint64_t total_bytes = 0;
  std::optional<uint64_t> free_bytes;  // absent when not asked for, or not to be had
};

struct CudaProbe {
  bool driver_found = false;
  std::string driver_path;      // the file that was opened; empty when none was found
  int32_t driver_version = 0;   // of CUDA, as 1000 * major + 10 * minor: the newest that the driver serves
  std::string driver_release;   // "580.159.04"; empty when it can't be told
  int32_t runtime_version = 0;  // of CUDA, that Kadenz was built with
  std::vector<GpuDescription> gpus;
  std::vector<std::string> problems;  // empty: the CUDA host can run

  bool usable() const { return problems.empty(); }
};

struct ProbeOptions {
  bool with_free_memory = false;
};

CudaProbe probe_cuda(const ProbeOptions& options = {}) noexcept;

std::string cuda_version_text(int32_t version);  // 13000 → "13.0"

}  // namespace kadenz::cuda
