#include "host/cuda_plugin.h"

#include <dlfcn.h>

#include <filesystem>

#include "model/error.h"

namespace kadenz {
namespace {

[[noreturn]] void refuse(const std::string& sentence) { throw HostError("cuda_plugin_missing", sentence); }

template <class Function>
Function* find(void* library, const char* name, const std::string& path) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) refuse(path + " is not Kadenz's CUDA library: it has no " + name + ".");
  return reinterpret_cast<Function*>(symbol);
}

void* load(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    refuse("The CUDA library " + path +
           " is missing. It is built by `npm run build:native` where nvcc (CUDA 13) is found.");
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) refuse("The CUDA library can't be loaded: " + std::string(dlerror()) + ".");
  const int version = find<CudaPluginVersionFunction>(library, kCudaPluginVersionName, path)();
  if (version != kCudaPluginVersion) {
    refuse(path + " is of another build (interface " + std::to_string(version) + ", this is " +
           std::to_string(kCudaPluginVersion) + "); build it again with `npm run build:native`.");
  }
  return library;
}

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return json + "\"";
}

}  // namespace

std::unique_ptr<Device> open_cuda_device(const HostOptions& options) {
  const std::string& path = options.cuda.plugin_path;
  return std::unique_ptr<Device>(find<OpenCudaDeviceFunction>(load(path), kOpenCudaDeviceName, path)(options));
}

std::string probe_cuda(const std::string& plugin_path, const CudaProbe& probe) {
  try {
    return find<ProbeCudaFunction>(load(plugin_path), kProbeCudaName, plugin_path)(probe);
  } catch (const HostError& error) {
    return "{\"plugin\":{\"path\":" + quoted(plugin_path) + ",\"loaded\":false},\"gpus\":[],\"problems\":[{\"what\":\"" +
           error.code() + "\",\"sentence\":" + quoted(error.what()) + "}]}";
  }
}

}  // namespace kadenz
