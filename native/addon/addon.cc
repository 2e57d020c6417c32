// Entry of kadenz.node. Each environment (the main thread, each worker) gets the NativeHost class of its own;
// loading does nothing else.
#include <napi.h>

#include "addon/native_host.h"

namespace {

Napi::Object start(Napi::Env env, Napi::Object exports) {
  exports.Set("NativeHost", kadenz::NativeHost::define(env));
  exports.Set("probeCuda", Napi::Function::New(env, kadenz::probe_cuda_in_javascript));
  return exports;
}

}  // namespace

NODE_API_MODULE(kadenz, start)
