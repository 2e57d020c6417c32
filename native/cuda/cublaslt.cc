#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "model/error.h"

namespace kadenz::cuda {

namespace {

constexpr const char* kAdvice =
    "Install cuBLAS of CUDA 13 (it comes with the CUDA toolkit, or as the Python package nvidia-cublas) or "
    "set "
    "KADENZ_CUBLASLT to the path of libcublasLt.so.13.";

std::vector<std::string> places() {
  return {"libcublasLt.so.13",
          "libcublasLt.so",
          "/usr/local/cuda/lib64/libcublasLt.so.13",
          "/usr/local/cuda/lib64/libcublasLt.so",
          "/usr/local/cuda/targets/x86_64-linux/lib/libcublasLt.so.13",
          "/usr/local/cuda/targets/x86_64-linux/lib/libcublasLt.so"};
}

void* open_library(std::string& path) {
  const char* named = std::getenv("KADENZ_CUBLASLT");
  if (named != nullptr && *named != '\0') {
    path = named;
    if (void* library = dlopen(named, RTLD_NOW | RTLD_LOCAL)) return library;
    const char* reason = dlerror();
    throw HostError("cublaslt_missing", "KADENZ_CUBLASLT names " + path + ", which cannot be opened (" +
                                            (reason == nullptr ? "no reason given" : reason) + "). " +
                                            kAdvice);
  }
  std::string tried;
  for (const std::string& place : places()) {
    path = place;
    if (void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    tried += (tried.empty() ? "" : ", ") + place;
  }
  throw HostError("cublaslt_missing", "cuBLASLt was not found; tried " + tried + ". " + kAdvice);
}

template <class Function>
void resolve(void* library, const std::string& path, const char* name, Function& function) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) {
    throw HostError("cublaslt_missing", path + " has no function " + name + ". " + kAdvice);
  }
  function = reinterpret_cast<Function>(symbol);
}

}  // namespace

CublasLt load_cublaslt() {
  CublasLt lt;
  void* library = open_library(lt.path);
  const auto take = [&](const char* name, auto& function) { resolve(library, lt.path, name, function); };
  take("cublasLtGetVersion", lt.get_version);
  take("cublasLtCreate", lt.create);
  take("cublasLtDestroy", lt.destroy);
  take("cublasLtMatmulDescCreate", lt.description_create);
  take("cublasLtMatmulDescDestroy", lt.description_destroy);
  take("cublasLtMatmulDescSetAttribute", lt.description_set);
  take("cublasLtMatrixLayoutCreate", lt.layout_create);
  take("cublasLtMatrixLayoutDestroy", lt.layout_destroy);
  take("cublasLtMatrixLayoutSetAttribute", lt.layout_set);
  take("cublasLtMatmulPreferenceCreate", lt.preference_create);
  take("cublasLtMatmulPreferenceDestroy", lt.preference_destroy);
  take("cublasLtMatmulPreferenceSetAttribute", lt.preference_set);
  take("cublasLtMatmulAlgoGetHeuristic", lt.heuristic);
  take("cublasLtMatmulAlgoCheck", lt.algorithm_check);
  take("cublasLtMatmulAlgoConfigGetAttribute", lt.algorithm_get);
  take("cublasLtMatmul", lt.matmul);
  lt.version = lt.get_version();
  return lt;
}

void check_lt(lt::Status status, const char* call) {
  if (status == lt::kSuccess) return;
  throw HostError("device_error",
                  std::string(call) + " failed: cuBLASLt status " + std::to_string(status) +
                      " (1 is not initialized, 3 out of memory, 7 an invalid value, 8 a GPU it "
                      "does not know, 13 a failed kernel, 14 internal, 15 not supported).");
}

}  // namespace kadenz::cuda
