// What the shared library exports (host/cuda_plugin.h): opening a GPU as a device, and telling what there is.
#include <cinttypes>
#include <cstdio>
#include <string>

#include "cuda/certificate.h"
#include "cuda/cublaslt.h"
#include "cuda/cuda_device.h"
#include "cuda/device_buffer.h"
#include "cuda/probe.h"
#include "host/cuda_plugin.h"
#include "model/error.h"

#define KADENZ_EXPORT extern "C" __attribute__((visibility("default")))

namespace kadenz::cuda {
namespace {

// A JSON object or array, built in order.
class Json {
 public:
  explicit Json(char open) : text_(1, open), close_(open == '{' ? '}' : ']') {}

  Json& raw(const char* key, const std::string& value) {
    if (text_.size() > 1) text_ += ',';
    if (key != nullptr) text_ += quoted(key) + ":";
    text_ += value;
    return *this;
  }
  Json& text(const char* key, const std::string& value) { return raw(key, quoted(value)); }
  Json& number(const char* key, uint64_t value) { return raw(key, std::to_string(value)); }
  Json& boolean(const char* key, bool value) { return raw(key, value ? "true" : "false"); }
  std::string done() const { return text_ + close_; }

 private:
  static std::string quoted(const std::string& value) {
    std::string out = "\"";
    for (const char c : value) {
      if (c == '"' || c == '\\') out += '\\';
      if (static_cast<unsigned char>(c) >= 0x20) {
        out += c;
      } else {
        char escape[8];
        std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
        out += escape;
      }
    }
    return out + "\"";
  }

  std::string text_;
  char close_;
};

std::string describe(const GpuDescription& gpu) {
  Json json('{');
  json.number("index", static_cast<uint64_t>(gpu.index)).text("name", gpu.name);
  json.text("computeCapability", std::to_string(gpu.compute_capability_major) + "." +
                                     std::to_string(gpu.compute_capability_minor));
  json.number("multiprocessors", static_cast<uint64_t>(gpu.num_multiprocessors));
  json.number("memoryBytes", gpu.total_bytes);
  if (gpu.free_bytes.has_value()) json.number("freeBytes", *gpu.free_bytes);
  return json.text("pciBusId", gpu.pci_bus_id).done();
}

std::string describe(const Certificate& certificate) {
  Json algorithms('[');
  for (const AlgorithmVerdict& verdict : certificate.algorithms) {
    Json json('{');
    json.raw("configId", std::to_string(verdict.config_id)).number("runs", verdict.runs);
    algorithms.raw(nullptr, json.number("differing", verdict.differing).boolean("ok", verdict.ok()).done());
  }
  Json json('{');
  json.text("fingerprint", certificate.fingerprint).raw("algorithms", algorithms.done());
  return json.number("comparisons", certificate.comparisons).number("differing", certificate.differing).done();
}

// Shapes like those of a model of 1.5 billion parameters, for a machine where no model is at hand.
constexpr CertifiedShape kUsualShapes[] = {{2048, 1536, MatmulOutput::kFloat32},
                                           {1536, 1536, MatmulOutput::kFloat32},
                                           {17920, 1536, MatmulOutput::kHalf},
                                           {1536, 8960, MatmulOutput::kFloat32}};

std::string certify_machine(uint32_t device_index) {
  check(cudaSetDevice(static_cast<int>(device_index)), "cudaSetDevice");
  const DeviceBuffer<std::byte> workspace(Matmul::kWorkspaceBytes);
  Matmul matmul(Half::kBFloat16, Matmul::kWorkspaceBytes, workspace.data());
  const Certificate certificate = certify(matmul, kUsualShapes);
  admit(matmul, certificate);
  return describe(certificate);
}

std::string probe_json(const kadenz::CudaProbe& asked) {
  const CudaProbe found = probe_cuda({.with_free_memory = asked.certify});
  Json problems('[');
  const auto problem = [&](const std::string& what, const std::string& sentence) {
    problems.raw(nullptr, Json('{').text("what", what).text("sentence", sentence).done());
  };
  for (const std::string& sentence : found.problems) problem("cuda_unavailable", sentence);
  Json json('{');
  json.raw("plugin", Json('{').boolean("loaded", true).done());
  if (found.driver_found) {
    Json driver('{');
    driver.text("version", found.driver_release).text("cuda", cuda_version_text(found.driver_version));
    json.raw("driver", driver.text("path", found.driver_path).done());
  }
  json.raw("runtime", Json('{').text("version", cuda_version_text(found.runtime_version)).done());
  Json gpus('[');
  for (const GpuDescription& gpu : found.gpus) gpus.raw(nullptr, describe(gpu));
  json.raw("gpus", gpus.done());
  try {
    const CublasLt library = load_cublaslt();
    json.raw("cublaslt", Json('{').text("path", library.path).number("version", library.version).done());
    if (asked.certify && found.usable()) json.raw("certificate", certify_machine(asked.device_index));
  } catch (const HostError& error) {
    problem(error.code(), error.what());
  }
  return json.raw("problems", problems.done()).done();
}

}  // namespace
}  // namespace kadenz::cuda

KADENZ_EXPORT int kadenz_cuda_plugin_version() { return kadenz::kCudaPluginVersion; }

KADENZ_EXPORT kadenz::Device* kadenz_open_cuda_device(const kadenz::HostOptions& options) {
  return kadenz::cuda::make_cuda_device(options).release();
}

KADENZ_EXPORT std::string kadenz_probe_cuda(const kadenz::CudaProbe& probe) {
  return kadenz::cuda::probe_json(probe);
}
