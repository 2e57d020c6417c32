// JavaScript's options object to HostOptions. TypeScript has judged the model; here every field must be there
// with its type, or a TypeError with the field's name is thrown.
#pragma once

#include <napi.h>

#include "host/options.h"

namespace kadenz {

HostOptions read_host_options(const Napi::Object& options);

}  // namespace kadenz
