// The one sentence for too little device memory: how much was asked for what, how much is free of how much, and
// what to do.
#pragma once

#include <cstdint>
#include <string>

#include "model/error.h"

namespace kadenz::cuda {

// `purpose` completes "device memory for ..."; `remedy` is a sentence.
// Throws HostError("device_error") where the device can't even say what is free.
HostError out_of_memory(uint64_t asked_bytes, const std::string& purpose, const std::string& remedy);

}  // namespace kadenz::cuda
