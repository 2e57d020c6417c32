#include "host/result.h"

#include <span>

#include "result_generated.h"

namespace kadenz {
namespace {

template <class T, class F>
auto write_column(flatbuffers::FlatBufferBuilder& builder, const std::vector<TokenOutcome>& tokens, F field) {
  T* target = nullptr;
  const auto offset = builder.CreateUninitializedVector(tokens.size(), &target);
  for (size_t i = 0; i < tokens.size(); ++i) target[i] = field(tokens[i]);
  return flatbuffers::Offset<flatbuffers::Vector<T>>(offset);
}

struct TopOffsets {
  flatbuffers::Offset<flatbuffers::Vector<uint32_t>> end;
  flatbuffers::Offset<flatbuffers::Vector<int32_t>> token_ids;
  flatbuffers::Offset<flatbuffers::Vector<float>> logprobs;
};

// The lists lie with gaps, since a kept set may be smaller than the list asked for.
TopOffsets write_top_lists(flatbuffers::FlatBufferBuilder& builder, const Outcomes& outcomes) {
  std::vector<uint32_t> ends;
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  for (size_t i = 0; i < outcomes.tokens.size(); ++i) {
    const size_t begin = outcomes.top_begin[i];
    const size_t count = outcomes.tokens[i].top_count;
    token_ids.insert(token_ids.end(), &outcomes.top_token_ids.data()[begin],
                     &outcomes.top_token_ids.data()[begin + count]);
    logprobs.insert(logprobs.end(), &outcomes.top_logprobs.data()[begin],
                    &outcomes.top_logprobs.data()[begin + count]);
    ends.push_back(static_cast<uint32_t>(token_ids.size()));
  }
  return {builder.CreateVector(ends), builder.CreateVector(token_ids), builder.CreateVector(logprobs)};
}

std::vector<uint8_t> take(flatbuffers::FlatBufferBuilder& builder) {
  const std::span<const uint8_t> bytes(builder.GetBufferPointer(), builder.GetSize());
  std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  builder.Clear();
  return copy;
}

}  // namespace

std::vector<uint8_t> write_result(flatbuffers::FlatBufferBuilder& builder, uint64_t step,
                                  const Outcomes& samples, const Outcomes& scores) {
  builder.Clear();
  const auto& tokens = samples.tokens;
  bool any_failed = false;
  for (const TokenOutcome& token : tokens) any_failed = any_failed || token.code != wire::ErrorCode::none;
  flatbuffers::Offset<flatbuffers::Vector<wire::ErrorCode>> row_code;
  if (any_failed) {
    // Enum vectors are stored as their integers.
    const auto codes = write_column<uint16_t>(
        builder, tokens, [](const TokenOutcome& t) { return static_cast<uint16_t>(t.code); });
    row_code = codes.o;
  }
  const auto token_ids =
      write_column<int32_t>(builder, tokens, [](const TokenOutcome& t) { return t.token_id; });
  const auto logprob = write_column<float>(builder, tokens, [](const TokenOutcome& t) { return t.logprob; });
  const auto rank = write_column<uint32_t>(builder, tokens, [](const TokenOutcome& t) { return t.rank; });
  const TopOffsets top = write_top_lists(builder, samples);
  const auto score_logprob =
      write_column<float>(builder, scores.tokens, [](const TokenOutcome& t) { return t.logprob; });
  const auto score_rank =
      write_column<uint32_t>(builder, scores.tokens, [](const TokenOutcome& t) { return t.rank; });
  const TopOffsets score_top = write_top_lists(builder, scores);

  wire::ResultBuilder result(builder);
  result.add_step(step);
  result.add_token_ids(token_ids);
  if (any_failed) result.add_row_code(row_code);
  result.add_logprob(logprob);
  result.add_rank(rank);
  result.add_top_end(top.end);
  result.add_top_token_ids(top.token_ids);
  result.add_top_logprob(top.logprobs);
  result.add_score_logprob(score_logprob);
  result.add_score_rank(score_rank);
  result.add_score_top_end(score_top.end);
  result.add_score_top_token_ids(score_top.token_ids);
  result.add_score_top_logprob(score_top.logprobs);
  builder.Finish(result.Finish());
  return take(builder);
}

std::vector<uint8_t> write_result(flatbuffers::FlatBufferBuilder& builder, uint64_t step,
                                  wire::ErrorCode code, const std::string& message) {
  builder.Clear();
  const auto text =
      message.empty() ? flatbuffers::Offset<flatbuffers::String>() : builder.CreateString(message);
  wire::ResultBuilder result(builder);
  result.add_step(step);
  result.add_code(code);
  if (!message.empty()) result.add_message(text);
  builder.Finish(result.Finish());
  return take(builder);
}

}  // namespace kadenz
