// NativeHost in JavaScript: unwrap, call kadenz::Host, wrap. Every call is synchronous; collect() blocks, so
// an instance belongs in a worker thread.
//
//   new NativeHost({config, tensors, files, dtype, numBlocks, blockSize, maxNumSeqs, maxModelLen,
//                   maxNumBatchedTokens, numThreads, isa?})
//   submit(Uint8Array): void      collect(): Uint8Array      info(): {...}      close(): void
//
// The host's thread ends with close(), with the object, or with the environment (a worker that is ended),
// whichever comes first.
//
// Errors are Errors with a `code`. The array given to submit() is kept alive until its result was collected;
// its bytes must not be changed, transferred or grown away before that.
#pragma once

#include <napi.h>

#include <deque>
#include <memory>

#include "host/host.h"

namespace kadenz {

class NativeHost : public Napi::ObjectWrap<NativeHost> {
 public:
  static Napi::Function define(Napi::Env env);

  explicit NativeHost(const Napi::CallbackInfo& info);
  ~NativeHost() override;

 private:
  void submit(const Napi::CallbackInfo& info);
  Napi::Value collect(const Napi::CallbackInfo& info);
  Napi::Value info(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);
  static void end_of_environment(void* host);
  void close_host();

  std::unique_ptr<Host> host_;
  std::deque<Napi::Reference<Napi::Uint8Array>> submitted_;
};

// probeCuda({pluginPath, deviceIndex, certify}): string, the JSON of probe_cuda (host/cuda_plugin.h)
Napi::Value probe_cuda_in_javascript(const Napi::CallbackInfo& info);

}  // namespace kadenz
