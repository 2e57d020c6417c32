// Inverse frequencies of rotary position embeddings, as Hugging Face's modeling code defines them: made in
// float32 step by step, so that the angles of far positions agree with the models as they were trained.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_config.h"

namespace kadenz {

// head_dim / 2 values; the angle of pair i at position p is float(p) * value[i].
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace kadenz
