#include "cuda/sampling_step.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

#include "cuda/check.h"
#include "model/error.h"
#include "model/exact_math.h"

namespace kadenz::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5F;
constexpr uint64_t kLogitsBytes = uint64_t{256} << 20;  // of one chunk
constexpr uint32_t kLeastChunkRows = 16;
constexpr uint32_t kMostChunkRows = 1024;
constexpr uint32_t kPlainItems = 512;    // run at once: bounds the tiles' memory
constexpr uint32_t kGeneralItems = 132;  // run at once: one for each multiprocessor
constexpr uint64_t kMostTopEntries = uint64_t{1} << 26;

uint32_t entries_for(int32_t logprobs) { return logprobs < 1 ? 0 : static_cast<uint32_t>(logprobs); }

uint32_t chunk_rows_for(uint32_t vocab_size) {
  const uint64_t rows = kLogitsBytes / (uint64_t{vocab_size} * sizeof(float)) / 16 * 16;
  return static_cast<uint32_t>(std::clamp<uint64_t>(rows, kLeastChunkRows, kMostChunkRows));
}

uint64_t scratch_stride(uint32_t vocab_size) { return (uint64_t{vocab_size} + 3) / 4 * 4; }

void check_logprobs(const char* name, int32_t asked) {
  if (asked <= static_cast<int32_t>(kMostTopEntriesOfAnItem)) return;
  throw HostError("step_failed", std::string(name) + " is " + std::to_string(asked) +
                                     "; the CUDA host lists at most " +
                                     std::to_string(kMostTopEntriesOfAnItem) + " tokens.");
}

// At least `count` elements; what it held is lost when it grows. Page-locked memory begins as zeros: a list that
// ends early leaves a part of its room unwritten, which is read nevertheless.
template <class Element, BufferKind kind>
void reserve(Buffer<Element, kind>& buffer, uint64_t count) {
  if (buffer.count() >= count) return;
  buffer = Buffer<Element, kind>();
  const uint64_t room = std::max(count, uint64_t{256}) * 3 / 2;
  if constexpr (kind == BufferKind::kPinned) {
    buffer = zeroed_pinned<Element>(room);
  } else {
    buffer = Buffer<Element, kind>(room);
  }
}

// Biases with each id once: those of one id are added up in their order.
std::map<int32_t, float> merged(const std::vector<LogitBias>& all) {
  std::map<int32_t, float> result;
  for (const LogitBias& entry : all) {
    const auto [at, is_new] = result.emplace(entry.token_id, entry.bias);
    if (!is_new) at->second += entry.bias;
  }
  return result;
}

}  // namespace

SamplingStep::SamplingStep(uint32_t vocab_size, uint32_t max_num_seqs, uint32_t max_rows_of_a_step,
                           cudaStream_t stream, const uint8_t* poisoned, uint32_t logits_stride)
    : vocab_size_(vocab_size),
      logits_stride_(logits_stride == 0 ? vocab_size : logits_stride),
      max_items_(max_num_seqs + max_rows_of_a_step),
      general_items_(kGeneralItems),
      stream_(stream),
      poisoned_(poisoned),
      chunk_rows_(chunk_rows_for(vocab_size)),
      slots_(max_num_seqs) {
  if (vocab_size > kMostSamplingVocab) {
    throw HostError("unsupported", "The vocabulary has " + std::to_string(vocab_size) +
                                       " tokens; the CUDA host samples from at most " +
                                       std::to_string(kMostSamplingVocab) + ".");
  }
  items_ = DeviceBuffer<SampleParams>(max_items_);
  tiles_ =
      DeviceBuffer<SamplingTile>(uint64_t{std::min(max_items_, kPlainItems)} * sampling_tiles(vocab_size));
  sampled_tokens_ = DeviceBuffer<int32_t>(max_num_seqs);
  for (Ticket& ticket : tickets_) {
    ticket.items = PinnedBuffer<SampleParams>(max_items_);
    reserve(ticket.results, uint64_t{max_items_} * sizeof(SampleOutcome));
    check(cudaEventCreateWithFlags(&ticket.done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
}

SamplingStep::~SamplingStep() {
  for (const Ticket& ticket : tickets_) {
    if (ticket.done != nullptr) cudaEventDestroy(ticket.done);
  }
}

uint64_t SamplingStep::device_bytes() const {
  uint64_t bytes = items_.bytes() + tiles_.bytes() + scratch_.bytes() + sampled_tokens_.bytes();
  for (const OpenSlot& slot : slots_) bytes += slot.counts.bytes() + slot.list.bytes();
  return bytes;
}

// The ticket's buffers are this step's from here on. Kernels may still read and write them when the step before
// was given up half-way.
void SamplingStep::enter(Phase phase) {
  if (next_ - collected_ >= kStepsInFlight) {
    throw std::logic_error("Step " + std::to_string(collected_) + " must be collected before step " +
                           std::to_string(next_) + " begins.");
  }
  if (phase_ >= phase) check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  phase_ = phase;
}

void SamplingStep::note_slot(OpenSlot& open, const Slot& slot) {
  const wire::SamplingParams& params = slot.params;
  const bool is_greedy = params.temperature() < kGreedyBelow;
  const bool has_top_k = params.top_k() > 0 && params.top_k() < vocab_size_;
  SampleParams item{};
  item.seed = params.seed();
  item.sample = slot.sample;
  item.score_token = -1;
  item.scale = is_greedy ? 1.0F : 1.0F / params.temperature();
  item.least_x = params.min_p() > 0 ? static_cast<float>(exact_log(params.min_p())) : -kInfinity;
  item.top_p = params.top_p();
  item.top_k = params.top_k();
  item.repetition = params.repetition_penalty();
  item.frequency = params.frequency_penalty();
  item.presence = params.presence_penalty();
  item.is_greedy = is_greedy ? 1 : 0;
  item.is_processed = params.logprobs_mode() == wire::LogprobsMode::processed ? 1 : 0;
  item.is_filtered = !is_greedy && (params.min_p() > 0 || has_top_k || params.top_p() < 1) ? 1 : 0;

  const uint32_t num_bias = static_cast<uint32_t>(merged(slot.bias).size());
  item.num_bias = num_bias;
  item.bias_ids = reinterpret_cast<const int32_t*>(open.list.data());
  item.bias_values = reinterpret_cast<const float*>(open.list.data() + num_bias);
  item.stop_ids = reinterpret_cast<const int32_t*>(open.list.data() + 2 * uint64_t{num_bias});
  item.is_edited = num_bias > 0 ? 1 : 0;
  open.num_stops = static_cast<uint32_t>(slot.stop_token_ids.size());

  // A score knows its row alone: no penalties, no mask; its raw log-prob not even biases and filters.
  open.score = item;
  open.score.logprobs = params.prompt_logprobs();
  if (item.is_processed == 0) open.score.is_edited = open.score.is_filtered = 0;
  open.sample = item;
  open.sample.logprobs = params.logprobs();
  if (slot.has_penalties) {
    open.sample.counts = open.counts.data();
    open.sample.is_edited = 1;
  }
}

void SamplingStep::open_slots(const Plan& plan, const SlotTable& slots) {
  if (plan.open_slot.empty()) return;
  for (const wire::SamplingParams& params : plan.open_params) {
    check_logprobs("logprobs", params.logprobs());
    check_logprobs("prompt_logprobs", params.prompt_logprobs());
  }
  enter(Phase::kOpened);
  const size_t count = plan.open_slot.size();
  std::vector<SlotOpening> openings(count);
  std::vector<uint32_t> words;
  const auto add_words = [&](const void* source, size_t number) {
    const size_t before = words.size();
    words.resize(before + number);
    if (number > 0) std::memcpy(words.data() + before, source, number * sizeof(uint32_t));
  };
  for (size_t i = 0; i < count; ++i) {
    OpenSlot& open = slots_[plan.open_slot[i]];
    const Slot& slot = slots[plan.open_slot[i]];
    SlotOpening& opening = openings[i];
    if (slot.has_penalties) {
      if (open.counts.count() == 0) open.counts = DeviceBuffer<uint32_t>(vocab_size_);
      const size_t begin = plan.open_history_end.begin(i);
      opening.counts = open.counts.data();
      opening.history_begin = static_cast<uint32_t>(words.size());
      opening.history_tokens = static_cast<uint32_t>(plan.open_history_end.end(i) - begin);
      opening.prompt_tokens = slot.prompt_tokens;
      add_words(plan.history_token_ids.data() + begin, opening.history_tokens);
    }
    const std::map<int32_t, float> bias = merged(slot.bias);
    opening.list_begin = static_cast<uint32_t>(words.size());
    for (const auto& [token_id, value] : bias) add_words(&token_id, 1);
    for (const auto& [token_id, value] : bias) add_words(&value, 1);
    add_words(slot.stop_token_ids.data(), slot.stop_token_ids.size());
    opening.list_words = static_cast<uint32_t>(words.size() - opening.list_begin);
    reserve(open.list, opening.list_words);
    opening.list = open.list.data();
    note_slot(open, slot);
    const bool may_be_edited = open.sample.is_edited != 0 || open.num_stops > 0;
    if (may_be_edited && scratch_.count() == 0) {
      scratch_ = DeviceBuffer<float>(general_items_ * scratch_stride(vocab_size_));
    }
  }
  const size_t opening_bytes = count * sizeof(SlotOpening);
  const size_t bytes = opening_bytes + words.size() * sizeof(uint32_t);
  Ticket& ticket = next_ticket();
  reserve(ticket.opening, bytes);
  std::memcpy(ticket.opening.data(), openings.data(), opening_bytes);
  if (!words.empty()) std::memcpy(ticket.opening.data() + opening_bytes, words.data(), bytes - opening_bytes);
  open_sampling_slots(reinterpret_cast<const SlotOpening*>(ticket.opening.data()), static_cast<uint32_t>(count),
                      reinterpret_cast<const uint32_t*>(ticket.opening.data() + opening_bytes), vocab_size_,
                      stream_);
}

// Where each item's list begins, and room for them all.
void SamplingStep::lay_out(const Plan& plan, Ticket& ticket) {
  uint64_t samples = 0, scores = 0;
  ticket.sample_top_begin.clear();
  ticket.score_top_begin.clear();
  const auto place = [](std::vector<uint32_t>& begins, uint64_t& entries, int32_t logprobs) {
    begins.push_back(static_cast<uint32_t>(entries));
    entries += entries_for(logprobs);
    if (entries <= kMostTopEntries) return;
    throw HostError("step_failed", "The step's log-prob lists have more than " +
                                       std::to_string(kMostTopEntries) + " entries.");
  };
  for (const uint32_t slot : plan.sample_slot) {
    place(ticket.sample_top_begin, samples, slots_[slot].sample.logprobs);
  }
  for (const uint32_t slot : plan.score_slot) {
    place(ticket.score_top_begin, scores, slots_[slot].score.logprobs);
  }
  ticket.sample_entries = static_cast<uint32_t>(samples);
  ticket.score_entries = static_cast<uint32_t>(scores);
  const uint64_t bytes = ticket.outcomes() * sizeof(SampleOutcome) + (samples + scores) * 8;
  reserve(ticket.results, bytes);
}

void SamplingStep::add_item(const SampleParams& item) {
  (is_plain(item) ? plain_ : general_).push_back(item);
}

void SamplingStep::begin(const Plan& plan, const InputBatch& batch, const SlotTable& slots,
                         StepUpload& upload) {
  enter(Phase::kBegun);
  const uint32_t num_samples = static_cast<uint32_t>(plan.sample_row.size());
  const uint32_t num_scores = static_cast<uint32_t>(plan.score_row.size());
  if (uint64_t{num_samples} + num_scores > max_items_ || num_samples > slots_.size()) {
    throw std::logic_error("A plan of " + std::to_string(num_samples) + " samples and " +
                           std::to_string(num_scores) + " scores has passed its checks.");
  }
  Ticket& ticket = next_ticket();
  lay_out(plan, ticket);
  plain_.clear();
  general_.clear();
  for (uint32_t i = 0; i < num_samples; ++i) {
    const OpenSlot& open = slots_[plan.sample_slot[i]];
    const Slot& slot = slots[plan.sample_slot[i]];
    SampleParams item = open.sample;
    item.step_row = plan.sample_row[i];
    item.output = batch.output_index(item.step_row);
    item.position = batch.position(item.step_row) + 1;
    item.outcome = i;
    item.top_begin = ticket.sample_top_begin[i];
    if (open.num_stops > 0 && item.position < uint64_t{slot.prompt_tokens} + slot.params.min_tokens()) {
      item.num_stops = open.num_stops;
      item.is_edited = 1;
    }
    add_item(item);
  }
  for (uint32_t i = 0; i < num_scores; ++i) {
    SampleParams item = slots_[plan.score_slot[i]].score;
    item.step_row = plan.score_row[i];
    item.output = batch.output_index(item.step_row);
    item.score_token = plan.score_token[i];
    item.outcome = num_samples + i;
    item.top_begin = ticket.sample_entries + ticket.score_top_begin[i];
    add_item(item);
  }
  const auto by_output = [](const SampleParams& a, const SampleParams& b) { return a.output < b.output; };
  for (std::vector<SampleParams>* items : {&plain_, &general_}) {
    if (!std::is_sorted(items->begin(), items->end(), by_output)) {
      std::stable_sort(items->begin(), items->end(), by_output);
    }
  }
  const size_t count = plain_.size() + general_.size();
  std::copy(plain_.begin(), plain_.end(), ticket.items.data());
  std::copy(general_.begin(), general_.end(), ticket.items.data() + plain_.size());
  upload.add(ticket.items.data(), items_.data(), count * sizeof(SampleParams));
}

SamplingTarget SamplingStep::target_of(const float* logits, uint32_t first_output) {
  const Ticket& ticket = next_ticket();
  uint8_t* results = ticket.results.data();
  uint8_t* lists = results + ticket.outcomes() * sizeof(SampleOutcome);
  const uint64_t entries = uint64_t{ticket.sample_entries} + ticket.score_entries;
  return {logits,
          logits_stride_,
          first_output,
          vocab_size_,
          poisoned_,
          static_cast<uint32_t>(wire::ErrorCode::nan_logits),
          reinterpret_cast<SampleOutcome*>(results),
          sampled_tokens_.data(),
          reinterpret_cast<int32_t*>(lists),
          reinterpret_cast<float*>(lists + entries * sizeof(int32_t))};
}

void SamplingStep::run_chunk(const float* logits, uint32_t first_output, uint32_t count) {
  if (phase_ != Phase::kBegun) throw std::logic_error("run_chunk() before begin().");
  const SamplingTarget target = target_of(logits, first_output);
  // Runs the items whose rows are in the chunk, `at_once` in one launch. run(first item, count)
  const auto for_groups = [&](const std::vector<SampleParams>& items, uint64_t at_once, auto run) {
    const auto place = [&](uint64_t output) {
      return static_cast<uint64_t>(
          std::partition_point(items.begin(), items.end(),
                               [&](const SampleParams& item) { return item.output < output; }) -
          items.begin());
    };
    const uint64_t end = place(uint64_t{first_output} + count);
    for (uint64_t first = place(first_output); first < end; first += at_once) {
      run(first, static_cast<uint32_t>(std::min(at_once, end - first)));
    }
  };
  for_groups(plain_, std::min(max_items_, kPlainItems), [&](uint64_t first, uint32_t number) {
    sample_plain(target, items_.data() + first, number, tiles_.data(), stream_);
  });
  const SampleParams* general = items_.data() + plain_.size();
  for_groups(general_, std::min(max_items_, general_items_), [&](uint64_t first, uint32_t number) {
    sample_general(target, general + first, number, tiles_.data(), scratch_.data(), stream_);
  });
}

uint32_t SamplingStep::end() {
  if (phase_ != Phase::kBegun) throw std::logic_error("end() before begin().");
  check(cudaEventRecord(next_ticket().done, stream_), "cudaEventRecord");
  phase_ = Phase::kIdle;
  return next_++;
}

void SamplingStep::collect(uint32_t number, Outcomes& samples, Outcomes& scores) {
  if (number != collected_ || number == next_) {
    throw std::logic_error("Step " + std::to_string(number) + " is collected; the next is " +
                           std::to_string(collected_) + " of " + std::to_string(next_) + ".");
  }
  const Ticket& ticket = tickets_[number % kStepsInFlight];
  // The ticket's buffers are free once this returns, or throws.
  struct Release {
    std::atomic<uint32_t>& collected;
    ~Release() { ++collected; }
  } const release{collected_};
  check(cudaEventSynchronize(ticket.done), "cudaEventSynchronize");
  const auto* outcomes = reinterpret_cast<const SampleOutcome*>(ticket.results.data());
  const auto* token_ids = reinterpret_cast<const int32_t*>(outcomes + ticket.outcomes());
  const uint64_t all_entries = uint64_t{ticket.sample_entries} + ticket.score_entries;
  const auto* logprobs = reinterpret_cast<const float*>(token_ids + all_entries);
  const auto fill = [&](Outcomes& into, const std::vector<uint32_t>& begins, uint64_t first_outcome,
                        uint64_t first_entry, uint64_t entries) {
    into.top_begin = begins;
    into.tokens.resize(begins.size());
    for (size_t i = 0; i < begins.size(); ++i) {
      const SampleOutcome& from = outcomes[first_outcome + i];
      into.tokens[i] = {from.token_id, static_cast<wire::ErrorCode>(from.code), from.logprob, from.rank,
                        from.top_count};
    }
    into.top_token_ids.assign(token_ids + first_entry, token_ids + first_entry + entries);
    into.top_logprobs.assign(logprobs + first_entry, logprobs + first_entry + entries);
  };
  fill(samples, ticket.sample_top_begin, 0, 0, ticket.sample_entries);
  fill(scores, ticket.score_top_begin, ticket.sample_top_begin.size(), ticket.sample_entries,
       ticket.score_entries);
}

}  // namespace kadenz::cuda
