// The C++ side of the golden messages (test/wire): verifies and dumps messages, and writes the one message that a host writes.
//
//   wire_golden dump KIND FILE          verifies, then prints each field: `name count values...`, floats as their bits
//   wire_golden verify KIND FILE        FILE holds messages, each behind its size (u32); prints 1 or 0 for each
//   wire_golden write-result FILE       writes the example Result

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "command_generated.h"
#include "instruction_generated.h"
#include "output_generated.h"
#include "result_generated.h"

namespace {

using namespace kadenz::wire;

std::vector<uint8_t> read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path);
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool verify(const std::string& kind, const uint8_t* bytes, size_t size) {
  flatbuffers::Verifier verifier(bytes, size);
  if (kind == "command") return verifier.VerifyBuffer<Command>(nullptr);
  if (kind == "instruction") return verifier.VerifyBuffer<Instruction>(nullptr);
  if (kind == "result") return verifier.VerifyBuffer<Result>(nullptr);
  if (kind == "output") return verifier.VerifyBuffer<Output>(nullptr);
  if (kind == "stats") return verifier.VerifyBuffer<Stats>(nullptr);
  std::fprintf(stderr, "no message of kind %s\n", kind.c_str());
  std::exit(2);
}

template <typename T>
void print_value(T value) {
  if constexpr (std::is_same_v<T, float>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    std::printf(" %u", bits);
  } else if constexpr (std::is_signed_v<T>) {
    std::printf(" %lld", static_cast<long long>(value));
  } else {
    std::printf(" %llu", static_cast<unsigned long long>(value));
  }
}

template <typename T>
void field(const char* name, T value) {
  std::printf("%s", name);
  print_value(value);
  std::printf("\n");
}

template <typename T>
void column(const char* name, const flatbuffers::Vector<T>* values) {
  std::printf("%s %u", name, values ? values->size() : 0);
  if (values) {
    for (uint32_t i = 0; i < values->size(); i++) {
      if constexpr (std::is_enum_v<T>) {
        print_value(static_cast<std::underlying_type_t<T>>(values->Get(i)));
      } else {
        print_value(values->Get(i));
      }
    }
  }
  std::printf("\n");
}

void string_field(const char* name, const flatbuffers::String* value) {
  std::printf("%s %s\n", name, value ? value->c_str() : "");
}

void params_column(const char* name, const flatbuffers::Vector<const SamplingParams*>* values) {
  std::printf("%s %u", name, values ? values->size() : 0);
  for (uint32_t i = 0; values && i < values->size(); i++) {
    const SamplingParams* params = values->Get(i);
    print_value(params->seed());
    print_value(params->temperature());
    print_value(params->top_p());
    print_value(params->min_p());
    print_value(params->repetition_penalty());
    print_value(params->presence_penalty());
    print_value(params->frequency_penalty());
    print_value(params->top_k());
    print_value(params->max_tokens());
    print_value(params->min_tokens());
    print_value(params->logprobs());
    print_value(params->prompt_logprobs());
    print_value(static_cast<uint8_t>(params->logprobs_mode()));
    print_value(static_cast<uint8_t>(params->ignore_eos()));
  }
  std::printf("\n");
}

void dump_plan(const StepPlan& plan) {
  column("open_slot", plan.open_slot());
  column("open_sample", plan.open_sample());
  column("open_prompt_tokens", plan.open_prompt_tokens());
  column("open_adapter", plan.open_adapter());
  params_column("open_params", plan.open_params());
  column("open_history_end", plan.open_history_end());
  column("history_token_ids", plan.history_token_ids());
  column("open_stop_end", plan.open_stop_end());
  column("stop_token_ids", plan.stop_token_ids());
  column("open_bias_end", plan.open_bias_end());
  column("bias_token_ids", plan.bias_token_ids());
  column("bias", plan.bias());
  column("table_slot", plan.table_slot());
  column("table_index", plan.table_index());
  column("table_block", plan.table_block());
  column("copy_source", plan.copy_source());
  column("copy_target", plan.copy_target());
  column("sequence_slot", plan.sequence_slot());
  column("sequence_start", plan.sequence_start());
  column("sequence_num_tokens", plan.sequence_num_tokens());
  column("token_ids", plan.token_ids());
  column("sample_row", plan.sample_row());
  column("sample_slot", plan.sample_slot());
  column("score_row", plan.score_row());
  column("score_slot", plan.score_slot());
  column("score_token", plan.score_token());
}

void dump_instruction(const Instruction& instruction) {
  field("step", instruction.step());
  field("weight_version", instruction.weight_version());
  std::printf("work %s\n", EnumNameWork(instruction.work_type()));
  switch (instruction.work_type()) {
    case Work::StepPlan:
      dump_plan(*instruction.work_as_StepPlan());
      break;
    case Work::FinishWeightUpdate:
      field("version", instruction.work_as_FinishWeightUpdate()->version());
      field("succeeded", instruction.work_as_FinishWeightUpdate()->succeeded());
      break;
    case Work::ReleaseMemory:
      field("tags", static_cast<uint8_t>(instruction.work_as_ReleaseMemory()->tags()));
      field("abort_running", instruction.work_as_ReleaseMemory()->abort_running());
      break;
    case Work::ResumeMemory:
      field("tags", static_cast<uint8_t>(instruction.work_as_ResumeMemory()->tags()));
      break;
    case Work::LoadAdapter:
      field("adapter", instruction.work_as_LoadAdapter()->adapter());
      string_field("name", instruction.work_as_LoadAdapter()->name());
      string_field("path", instruction.work_as_LoadAdapter()->path());
      break;
    case Work::UnloadAdapter:
      field("adapter", instruction.work_as_UnloadAdapter()->adapter());
      break;
    case Work::SetParallelGroups:
      field("tensor_parallel_size", instruction.work_as_SetParallelGroups()->tensor_parallel_size());
      field("pipeline_parallel_size", instruction.work_as_SetParallelGroups()->pipeline_parallel_size());
      field("data_parallel_size", instruction.work_as_SetParallelGroups()->data_parallel_size());
      field("rank", instruction.work_as_SetParallelGroups()->rank());
      break;
    default:
      break;
  }
}

void dump_result(const Result& result) {
  field("step", result.step());
  field("code", static_cast<uint16_t>(result.code()));
  string_field("message", result.message());
  column("token_ids", result.token_ids());
  column("row_code", result.row_code());
  column("logprob", result.logprob());
  column("rank", result.rank());
  column("top_end", result.top_end());
  column("top_token_ids", result.top_token_ids());
  column("top_logprob", result.top_logprob());
  column("score_logprob", result.score_logprob());
  column("score_rank", result.score_rank());
  column("score_top_end", result.score_top_end());
  column("score_top_token_ids", result.score_top_token_ids());
  column("score_top_logprob", result.score_top_logprob());
}

// The same content as EXAMPLE_RESULT in test/wire/examples.ts.
std::vector<uint8_t> example_result() {
  flatbuffers::FlatBufferBuilder builder;
  const std::vector<int32_t> token_ids = {5, -1, 2147483647};
  const std::vector<ErrorCode> row_code = {ErrorCode::none, ErrorCode::nan_logits, ErrorCode::none};
  const std::vector<uint16_t> row_code_numbers = {0, static_cast<uint16_t>(row_code[1]), 0};
  const std::vector<float> logprob = {-0.5f, -1.25f, -0.0f};
  const std::vector<uint32_t> rank = {1, 0, 4294967295u};
  const std::vector<uint32_t> top_end = {2, 2, 3};
  const std::vector<int32_t> top_token_ids = {5, 6, 7};
  const std::vector<float> top_logprob = {-0.5f, -2.0f, -3.0f};
  const std::vector<float> score_logprob = {-4.5f};
  const std::vector<uint32_t> score_rank = {12};
  const std::vector<uint32_t> score_top_end = {1};
  const std::vector<int32_t> score_top_token_ids = {9};
  const std::vector<float> score_top_logprob = {-0.125f};
  const auto message = builder.CreateString("all is w\xc3\xa9ll");
  const auto tokens = builder.CreateVector(token_ids);
  const auto codes = builder.CreateVector(row_code_numbers);
  const auto logprobs = builder.CreateVector(logprob);
  const auto ranks = builder.CreateVector(rank);
  const auto top_ends = builder.CreateVector(top_end);
  const auto top_tokens = builder.CreateVector(top_token_ids);
  const auto top_logprobs = builder.CreateVector(top_logprob);
  const auto score_logprobs = builder.CreateVector(score_logprob);
  const auto score_ranks = builder.CreateVector(score_rank);
  const auto score_top_ends = builder.CreateVector(score_top_end);
  const auto score_top_tokens = builder.CreateVector(score_top_token_ids);
  const auto score_top_logprobs = builder.CreateVector(score_top_logprob);
  ResultBuilder result(builder);
  result.add_step(uint64_t{1} << 40);
  result.add_message(message);
  result.add_token_ids(tokens);
  result.add_row_code(flatbuffers::Offset<flatbuffers::Vector<ErrorCode>>(codes.o));
  result.add_logprob(logprobs);
  result.add_rank(ranks);
  result.add_top_end(top_ends);
  result.add_top_token_ids(top_tokens);
  result.add_top_logprob(top_logprobs);
  result.add_score_logprob(score_logprobs);
  result.add_score_rank(score_ranks);
  result.add_score_top_end(score_top_ends);
  result.add_score_top_token_ids(score_top_tokens);
  result.add_score_top_logprob(score_top_logprobs);
  builder.Finish(result.Finish());
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

int dump(const std::string& kind, const char* path) {
  const std::vector<uint8_t> bytes = read_file(path);
  if (!verify(kind, bytes.data(), bytes.size())) {
    std::fprintf(stderr, "%s is not a valid %s\n", path, kind.c_str());
    return 1;
  }
  if (kind == "instruction") dump_instruction(*flatbuffers::GetRoot<Instruction>(bytes.data()));
  if (kind == "result") dump_result(*flatbuffers::GetRoot<Result>(bytes.data()));
  return 0;
}

int verify_many(const std::string& kind, const char* path) {
  const std::vector<uint8_t> bytes = read_file(path);
  for (size_t at = 0; at + 4 <= bytes.size();) {
    uint32_t size;
    std::memcpy(&size, bytes.data() + at, 4);
    const std::vector<uint8_t> message(bytes.data() + at + 4, bytes.data() + at + 4 + size);
    std::putchar(verify(kind, message.data(), message.size()) ? '1' : '0');
    at += 4 + size;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "dump" && argc == 4) return dump(argv[2], argv[3]);
  if (command == "verify" && argc == 4) return verify_many(argv[2], argv[3]);
  if (command == "write-result" && argc == 3) {
    const std::vector<uint8_t> bytes = example_result();
    std::ofstream(argv[2], std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return 0;
  }
  std::fprintf(stderr, "usage: wire_golden dump|verify KIND FILE | write-result FILE\n");
  return 2;
}
