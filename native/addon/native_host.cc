#include "addon/native_host.h"

#include <cstring>
#include <utility>

#include "addon/options.h"
#include "host/cuda_plugin.h"
#include "model/error.h"

namespace kadenz {
namespace {

Napi::Error error_of(Napi::Env env, const HostError& error) {
  Napi::Error wrapped = Napi::Error::New(env, error.what());
  wrapped.Set("code", Napi::String::New(env, error.code()));
  return wrapped;
}

// Runs `call`, which may throw HostError, and throws what JavaScript understands.
template <class Call>
auto guarded(Napi::Env env, Call call) {
  try {
    return call();
  } catch (const HostError& error) {
    throw error_of(env, error);
  } catch (const std::bad_alloc&) {
    throw error_of(env,
                   HostError("out_of_memory", "There is not enough memory for the model or its KV cache."));
  }
}

}  // namespace

Napi::Function NativeHost::define(Napi::Env env) {
  return DefineClass(
      env, "NativeHost",
      {InstanceMethod<&NativeHost::submit>("submit"), InstanceMethod<&NativeHost::collect>("collect"),
       InstanceMethod<&NativeHost::info>("info"), InstanceMethod<&NativeHost::close>("close")});
}

Napi::Value probe_cuda_in_javascript(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject())
    throw Napi::TypeError::New(env, "probeCuda takes one options object.");
  const Napi::Object options = info[0].As<Napi::Object>();
  CudaProbe probe;
  probe.device_index = options.Get("deviceIndex").ToNumber().Uint32Value();
  probe.certify = options.Get("certify").ToBoolean().Value();
  return Napi::String::New(env, probe_cuda(options.Get("pluginPath").ToString().Utf8Value(), probe));
}

NativeHost::NativeHost(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeHost>(info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject())
    throw Napi::TypeError::New(env, "NativeHost takes one options object.");
  const HostOptions options = read_host_options(info[0].As<Napi::Object>());
  host_ = guarded(env, [&] { return std::make_unique<Host>(options); });
  napi_add_env_cleanup_hook(env, end_of_environment, this);
}

NativeHost::~NativeHost() {
  if (host_ == nullptr) return;  // the constructor threw
  napi_remove_env_cleanup_hook(Env(), end_of_environment, this);
  close_host();
}

void NativeHost::end_of_environment(void* host) { static_cast<NativeHost*>(host)->close_host(); }

void NativeHost::close_host() {
  host_->close();
  submitted_.clear();
}

void NativeHost::submit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsTypedArray() ||
      info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(env, "submit takes one Uint8Array.");
  }
  const Napi::Uint8Array bytes = info[0].As<Napi::Uint8Array>();
  guarded(env, [&] { host_->submit({bytes.Data(), bytes.ByteLength()}); });
  submitted_.push_back(Napi::Persistent(bytes));
}

Napi::Value NativeHost::collect(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::vector<uint8_t> result = guarded(env, [&] { return host_->collect(); });
  submitted_.pop_front();
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, result.size());
  std::memcpy(bytes.Data(), result.data(), result.size());
  return bytes;
}

Napi::Value NativeHost::info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object object = Napi::Object::New(env);
  if (host_->closed()) throw error_of(env, HostError("host_closed", "The host is closed."));
  const Executor& executor = host_->executor();
  object.Set("isa", executor.device().name());
  const std::string fingerprint = executor.device().fingerprint();
  if (!fingerprint.empty()) object.Set("fingerprint", fingerprint);
  object.Set("numBlocks", Napi::Number::New(env, executor.num_blocks()));
  object.Set("weightBytes", Napi::Number::New(env, static_cast<double>(executor.weight_bytes())));
  object.Set("kvBytes", Napi::Number::New(env, static_cast<double>(executor.kv_bytes())));
  object.Set("scratchBytes", Napi::Number::New(env, static_cast<double>(executor.scratch_bytes())));
  const DeviceTimes times = executor.device().times();
  object.Set("gpuSteps", Napi::Number::New(env, static_cast<double>(times.steps)));
  object.Set("gpuBusyMs", Napi::Number::New(env, times.busy_ms));
  object.Set("gpuGapMs", Napi::Number::New(env, times.gap_ms));
  return object;
}

void NativeHost::close(const Napi::CallbackInfo&) { close_host(); }

}  // namespace kadenz
