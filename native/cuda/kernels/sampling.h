// Sampling and log-probs on the device: the same definitions as host/sampler.h and host/selection.h, one
// outcome for each item (a sample or a score) from one row of logits.
//
// Bits: a row is cut into tiles of 512 vocabulary indices. Each tile gives its largest logit, its sum of
// e^x under that maximum and its winner; the tiles are folded in one order. Filters and lists use integers
// only (counts, and weights in fixed point), so the order of their additions never shows. Nothing depends on
// which other items there are, nor on where an item stands.
//
// Two ways, chosen by the item alone (is_plain): plain items (no edits, no filters, no lists) take one pass
// with many warps a row; all others take one thread block of 1,024 each, which passes over the row as often
// as needed. The raw log-sum comes from the same tiles in both, so a token's log-prob has the same bits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace kadenz::cuda {

inline constexpr uint32_t kSamplingTile = 512;
inline constexpr uint32_t kMostTopEntriesOfAnItem = 1024;
inline constexpr uint32_t kMostSamplingVocab = 1U << 20;  // fixed-point sums stay within 64 bits
inline constexpr uint32_t kPromptFlag = 1U << 31;  // of a counter; the rest is how often it was sampled

// One sample or score. Pointers are to device memory. A whole number of 16-byte words, so that items travel in
// those.
struct SampleParams {
  uint64_t seed;
  uint32_t* counts;          // [vocab] seen in the prompt, times sampled; null without penalties
  const int32_t* bias_ids;   // [num_bias], each id once
  const float* bias_values;  // [num_bias]
  const int32_t* stop_ids;   // [num_stops], to be masked now
  uint32_t num_bias;
  uint32_t num_stops;
  uint32_t output;      // index among the step's output rows
  uint32_t step_row;    // index among the step's rows, for `poisoned`
  uint32_t position;    // of the new token
  uint32_t sample;      // index of the sample in its request
  int32_t score_token;  // the token to score; -1: this is a sample
  uint32_t outcome;     // index of its outcome; a sample's is its index in the plan
  float scale;          // 1 / temperature; 1 when greedy
  float least_x;        // ln min_p; -infinity without
  float top_p;          // 1 = off
  uint32_t top_k;       // 0 = off
  float repetition;
  float frequency;
  float presence;
  int32_t logprobs;    // -1 none, 0 the token's, n also its rank and the n most likely
  uint32_t top_begin;  // of its list
  uint8_t is_greedy;
  uint8_t is_processed;  // log-probs of what was sampled from, not the raw ones
  uint8_t is_edited;     // bias, penalties or mask
  uint8_t is_filtered;   // min_p, top_k or top_p
};

static_assert(sizeof(SampleParams) % 16 == 0);

inline bool is_plain(const SampleParams& params) {
  return params.is_edited == 0 && params.is_filtered == 0 && params.logprobs < 1;
}

struct SampleOutcome {
  int32_t token_id;
  uint32_t code;  // wire::ErrorCode
  float logprob;
  uint32_t rank;
  uint32_t top_count;
};

// What one tile of a row says.
struct alignas(16) SamplingTile {
  float maximum;    // NaN when the tile has one
  float sum;        // of e^((logit - maximum) * scale)
  float best;       // the winner's x + noise, x under the tile's maximum
  int32_t best_id;  // -1: none
};

// Where a chunk's items find their rows and leave their outcomes. Outcomes and lists are only written: they may
// lie in page-locked memory.
struct SamplingTarget {
  const float* logits;  // [rows of the chunk][logits_stride]
  uint64_t logits_stride;  // at least vocab_size
  uint32_t first_output;
  uint32_t vocab_size;
  const uint8_t* poisoned;  // by row of the step; may be null
  uint32_t code_of_failure;
  SampleOutcome* outcomes;
  int32_t* sampled_tokens;  // by sample
  int32_t* top_token_ids;
  float* top_logprobs;
};

constexpr uint32_t sampling_tiles(uint32_t vocab_size) {
  return (vocab_size + kSamplingTile - 1) / kSamplingTile;
}

// tiles: [count][sampling_tiles(vocab_size)]
void sample_plain(const SamplingTarget& target, const SampleParams* items, uint32_t count,
                  SamplingTile* tiles, cudaStream_t stream);

// For any item. scratch: [count][vocab_size rounded up to 4], needed where items are edited; tiles as above.
void sample_general(const SamplingTarget& target, const SampleParams* items, uint32_t count,
                    SamplingTile* tiles, float* scratch, cudaStream_t stream);

// A slot that was opened: its counters are set from its history, and its lists are copied to its own memory.
struct SlotOpening {
  uint32_t* counts;  // null without penalties
  uint32_t history_begin, history_tokens, prompt_tokens;
  uint32_t* list;  // null without lists
  uint32_t list_begin, list_words;
};

// history and lists lie in `words`, at the openings' begins. Both are read once: they may lie in page-locked
// memory.
void open_sampling_slots(const SlotOpening* openings, uint32_t count, const uint32_t* words,
                         uint32_t vocab_size, cudaStream_t stream);

}  // namespace kadenz::cuda
