// A Result's bytes. The builder is kept by the caller from step to step; the bytes are copied out, since the
// client keeps them for as long as it likes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "flatbuffers/flatbuffers.h"
#include "host/sampling_step.h"
#include "types_generated.h"

namespace kadenz {

std::vector<uint8_t> write_result(flatbuffers::FlatBufferBuilder& builder, uint64_t step,
                                  const Outcomes& samples, const Outcomes& scores);

// For a control instruction that was carried out (code none), and for everything that failed.
std::vector<uint8_t> write_result(flatbuffers::FlatBufferBuilder& builder, uint64_t step,
                                  wire::ErrorCode code, const std::string& message);

}  // namespace kadenz
