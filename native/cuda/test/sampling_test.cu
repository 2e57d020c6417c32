// Sampling on the device against the CPU's Sampler on the same logits, parameters and histories; bits that do
// not depend on company, order or chunks; frequencies against probabilities.
#include "cuda/test/sampling_twin.cuh"

#include <stdexcept>

namespace kadenz::cuda::sampling_test {

TEST("device sampling: samples, scores, ranks and lists are the CPU's, for parameters drawn at random") {
  for (const uint32_t vocab : {413U, 32000U, 49152U, 151936U}) {
    Random random(900 + vocab);
    for (int round = 0; round < 2; ++round) {
      std::vector<Row> rows;
      for (int i = 0; i < 12; ++i) rows.push_back(random_row(random, vocab));
      std::vector<Item> items;
      for (int i = 0; i < 60; ++i) items.push_back(random_item(random, rows, vocab));
      expect_like_host(rows, items, "round " + std::to_string(round));
    }
  }
}

TEST("device sampling: plain draws are the CPU's at every temperature, on flat and on peaked rows") {
  for (const uint32_t vocab : {5U, 511U, 513U, 151936U}) {
    Random random(950 + vocab);
    std::vector<Row> rows;
    for (int i = 0; i < 10; ++i) rows.push_back(random_row(random, vocab));
    std::fill(rows[0].logits.begin(), rows[0].logits.end(), -3.0F);
    std::vector<Item> items;
    for (uint32_t i = 0; i < 150; ++i) {
      Item item;
      item.row = i % 10;
      item.seed = random.bits();
      item.temperature = random.one_of({0.0F, 0.01F, 0.5F, 1.0F, 1.0F, 3.0F, 100.0F});
      item.logprobs = random.one_of({-1, 0});
      item.processed = random.bits() % 2 == 0;
      items.push_back(item);
    }
    expect_like_host(rows, items, "plain");
  }
}

TEST("device sampling: a row of equals is cut at the right id by top_p, and kept whole by top_k") {
  for (const uint32_t vocab : {4096U, 151936U}) {
    std::vector<Row> rows(2);
    rows[0].logits.assign(vocab, 1.5F);
    rows[1].logits.assign(vocab, -0.0F);
    for (size_t i = 0; i < vocab; i += 3) rows[1].logits[i] = 0.0F;
    rows[1].logits[vocab - 1] = 2.0F;
    std::vector<Item> items;
    for (uint32_t i = 0; i < 2; ++i) {
      items.push_back({.row = i, .top_k = 7, .logprobs = 10, .processed = true});
      items.push_back({.row = i, .top_k = 7, .logprobs = 10, .processed = true, .score_token = 900});
      items.push_back({.row = i, .temperature = 0, .logprobs = 1024});
    }
    expect_like_host(rows, items, "equals");
    // The last of a quarter of equals is kept, the next isn't.
    const int32_t last = static_cast<int32_t>(vocab / 4) - 1;
    std::vector<Item> cut;
    for (const int32_t token : {0, last, last + 1}) {
      cut.push_back({.top_p = 0.25F, .prompt_logprobs = 3, .processed = true, .score_token = token});
    }
    const std::vector<Result> got = run_device(rows, cut);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_NOTE(std::fabs(got[i].token.logprob + std::log(vocab / 4.0)) < 1e-5, show(got[i]));
    }
    EXPECT_NOTE(got[2].token.logprob == -kInfinity, show(got[2]));
    EXPECT((got[0].top_ids == std::vector<int32_t>{0, 1, 2}) &&
           got[1].token.rank == static_cast<uint32_t>(last) + 1);
  }
}

TEST("device sampling: a NaN or an impossible row fails alone, and +infinities share the probability") {
  for (const uint32_t vocab : {413U, 32000U}) {
    Random random(970);
    std::vector<Row> rows(6);
    for (Row& row : rows) {
      row = random_row(random, vocab);
      row.position = 20;
    }
    rows[0].logits[vocab - 1] = kNaN;
    std::fill(rows[1].logits.begin(), rows[1].logits.end(), -kInfinity);
    rows[2].logits[7] = rows[2].logits[vocab - 2] = kInfinity;
    rows[3].logits[0] = kInfinity;
    rows[3].logits[vocab / 2] = kNaN;
    std::vector<Item> items;
    for (uint32_t row = 0; row < 6; ++row) {
      for (const float temperature : {0.0F, 1.0F}) {
        for (const int32_t logprobs : {-1, 0, 4}) {
          items.push_back(
              {.row = row, .seed = random.bits(), .temperature = temperature, .logprobs = logprobs});
          items.push_back({.row = row,
                           .seed = random.bits(),
                           .temperature = temperature,
                           .top_p = 0.7F,
                           .logprobs = logprobs,
                           .processed = true});
        }
      }
      items.push_back({.row = row, .prompt_logprobs = 2, .score_token = 7});
      items.push_back({.row = row, .processed = true, .score_token = 8});
      items.push_back({.row = row, .bias = {{9, kInfinity}, {11, kInfinity}}});
    }
    Item all_masked{.row = 4, .min_tokens = 100};
    for (uint32_t i = 0; i < vocab; ++i) all_masked.stops.push_back(static_cast<int32_t>(i));
    items.push_back(all_masked);
    expect_like_host(rows, items, "infinities");
    for (const Result& result : run_device(rows, {{.row = 2}, {.row = 2, .seed = 5, .top_k = 4}})) {
      EXPECT_NOTE(result.token.token_id == 7 || result.token.token_id == static_cast<int32_t>(vocab) - 2,
                  show(result));
      EXPECT_NOTE(
          result.token.logprob == -kInfinity || std::fabs(result.token.logprob + std::log(2.0)) < 1e-6,
          show(result));
    }
  }
}

TEST("device sampling: an outcome has the same bits alone, in company, in any order and chunk") {
  for (const uint32_t vocab : {413U, 32000U, 151936U}) {
    Random random(980 + vocab);
    std::vector<Row> rows;
    for (int i = 0; i < 9; ++i) rows.push_back(random_row(random, vocab));
    std::vector<Item> items;
    for (int i = 0; i < 40; ++i) items.push_back(random_item(random, rows, vocab));
    const std::vector<Result> together = run_device(rows, items);
    for (const uint32_t chunk : {1U, 4U}) {
      const std::vector<Result> chunked = run_device(rows, items, chunk);
      for (size_t i = 0; i < items.size(); ++i) {
        expect_same_bits(chunked[i], together[i],
                         "chunk " + std::to_string(chunk) + " " + describe(items[i], vocab));
      }
    }
    const std::vector<Item> reversed(items.rbegin(), items.rend());
    const std::vector<Result> backwards = run_device(rows, reversed);
    for (size_t i = 0; i < items.size(); ++i) {
      expect_same_bits(backwards[items.size() - 1 - i], together[i], "reversed " + describe(items[i], vocab));
      if (i % 4 != 0) continue;
      Item alone = items[i];
      alone.row = 0;
      expect_same_bits(run_device({rows[items[i].row]}, {alone})[0], together[i],
                       "alone " + describe(alone, vocab));
    }
  }
}

TEST("device sampling: a token's log-prob has the same bits sampled and scored, raw and processed") {
  for (const uint32_t vocab : {413U, 151936U}) {
    Random random(990 + vocab);
    std::vector<Row> rows;
    for (int i = 0; i < 6; ++i) rows.push_back(random_row(random, vocab));
    std::vector<Item> items;
    for (uint32_t i = 0; i < 48; ++i) {
      Item item = random_item(random, rows, vocab);
      item.score_token = -1;
      item.logprobs = random.one_of({0, 3});
      if (item.processed) {  // what a score can't know of
        item.history.clear();
        item.repetition = 1, item.presence = 0, item.frequency = 0, item.min_tokens = 0;
      }
      items.push_back(item);
    }
    const std::vector<Result> sampled = run_device(rows, items);
    std::vector<Item> scored = items;
    for (size_t i = 0; i < items.size(); ++i) {
      EXPECT(sampled[i].token.code == wire::ErrorCode::none);
      scored[i].score_token = sampled[i].token.token_id;
      scored[i].prompt_logprobs = items[i].logprobs == 0 ? 3 : 0;
    }
    const std::vector<Result> again = run_device(rows, scored);
    for (size_t i = 0; i < items.size(); ++i) {
      EXPECT_NOTE(std::bit_cast<uint32_t>(sampled[i].token.logprob) ==
                      std::bit_cast<uint32_t>(again[i].token.logprob),
                  show(sampled[i]) + " scored " + show(again[i]) + describe(items[i], vocab));
    }
  }
}

TEST(
    "device sampling: counters advance on the device, so penalties know tokens that the host hasn't seen "
    "yet") {
  const uint32_t vocab = 2000;
  Random random(1000);
  std::vector<Row> rows(3);
  for (Row& row : rows) {
    row.logits = random.floats(vocab, 1.0F);
    row.position = 5;
  }
  std::vector<Item> items;
  for (uint32_t i = 0; i < 3; ++i) {
    items.push_back({.row = i,
                     .temperature = i == 2 ? 1.0F : 0.0F,
                     .repetition = i == 1 ? 1.5F : 1.0F,
                     .presence = 0.1F,
                     .frequency = 0.3F,
                     .top_k = i == 2 ? 30U : 0U,
                     .history = {1, 2, 3, 4, 9}});
  }
  Step step(rows, items, vocab);
  step.build();
  SamplingStep sampling(vocab, step.limits.max_num_seqs, 8, nullptr, nullptr);
  StepUpload upload_of_step(nullptr);
  const DeviceBuffer<float> logits = upload(step, rows, vocab);
  sampling.open_slots(step.plan, step.slots);
  const uint32_t kSteps = SamplingStep::kStepsInFlight;
  Sampler sampler(logit_kernels(choose_cpu_isa({})), vocab);
  uint32_t ticket = 0;
  for (uint32_t round = 0; round < 4; ++round) {
    std::vector<std::vector<TokenOutcome>> expected;
    for (uint32_t number = 0; number < kSteps; ++number) {
      step.build();
      sampling.begin(step.plan, step.batch, step.slots, upload_of_step);
      upload_of_step.send();
      sampling.run_chunk(logits.data(), 0, 3);
      EXPECT(sampling.end() == ticket + number);
      expected.emplace_back();
      for (uint32_t i = 0; i < 3; ++i) {
        std::vector<float> own = rows[i].logits;
        LogitRow row;
        row.logits = own.data();
        sampler.prepare(row);
        expected.back().push_back(
            sampler.sample(row, step.slots[i], step.batch.position(i) + 1, {nullptr, nullptr}));
        step.slots[i].counts.add_output_token(expected.back().back().token_id);
      }
      step.advance();
    }
    step.build();
    bool refused = false;
    try {
      sampling.begin(step.plan, step.batch, step.slots, upload_of_step);
    } catch (const std::logic_error&) {
      refused = true;
    }
    EXPECT(refused);  // a fourth step in flight
    for (uint32_t number = 0; number < kSteps; ++number) {
      Outcomes samples, scores;
      sampling.collect(ticket++, samples, scores);
      for (uint32_t i = 0; i < 3; ++i) {
        const std::string note = "step " + std::to_string(ticket - 1) + " slot " + std::to_string(i) +
                                 ": got " + std::to_string(samples.tokens[i].token_id) + ", expected " +
                                 std::to_string(expected[number][i].token_id);
        EXPECT_NOTE(samples.tokens[i].token_id == expected[number][i].token_id, note);
        EXPECT_NOTE(is_near(samples.tokens[i].logprob, expected[number][i].logprob), note);
      }
    }
  }
}

TEST("device sampling: samples of a poisoned row fail, its neighbours don't") {
  Random random(1010);
  std::vector<Row> rows;
  for (int i = 0; i < 3; ++i) rows.push_back(random_row(random, 1000));
  const std::vector<uint8_t> flags = {0, 1, 0};
  const DeviceBuffer<uint8_t> poisoned(3);
  check(cudaMemcpy(poisoned.data(), flags.data(), 3, cudaMemcpyHostToDevice), "cudaMemcpy");
  std::vector<Item> items;
  for (uint32_t i = 0; i < 3; ++i) {
    items.push_back({.row = i});
    items.push_back({.row = i, .top_p = 0.5F, .logprobs = 2});
  }
  const std::vector<Result> got = run_device(rows, items, 0, poisoned.data());
  for (size_t i = 0; i < items.size(); ++i) {
    const bool failed = got[i].token.code == wire::ErrorCode::nan_logits && got[i].token.token_id == -1;
    EXPECT_NOTE(failed == (items[i].row == 1), show(got[i]));
  }
}

TEST("device sampling: samples come as often as their probabilities say") {
  constexpr uint32_t kCount = 8192;
  std::vector<Row> rows(1);
  rows[0].logits.assign(600, -30.0F);
  const float head[] = {2.0F, 1.0F, 0.5F, 0.0F, -1.0F, 1.5F};
  for (size_t i = 0; i < 6; ++i) rows[0].logits[100 * i + i] = head[i];
  struct Case {
    float temperature;
    uint32_t top_k;
    float top_p, min_p;
    uint32_t kept;
  };
  for (const Case& c : {Case{1, 0, 1, 0, 6}, Case{0.5F, 0, 1, 0, 6}, Case{1, 3, 1, 0, 3},
                        Case{1, 0, 0.8F, 0, 3}, Case{1, 0, 1, 0.3F, 3}}) {
    std::vector<Item> items;
    for (uint32_t i = 0; i < kCount; ++i) {
      items.push_back({.seed = test::base_seed(),
                       .sample = i,
                       .temperature = c.temperature,
                       .top_p = c.top_p,
                       .min_p = c.min_p,
                       .top_k = c.top_k,
                       .logprobs = -1});
    }
    std::vector<double> probability(600);
    double total = 0;
    for (size_t i = 0; i < 6; ++i) {
      const bool kept = c.kept == 6 || head[i] >= 1.0F;
      total += probability[100 * i + i] = kept ? std::exp(static_cast<double>(head[i]) / c.temperature) : 0.0;
    }
    std::vector<uint32_t> seen(600);
    for (const Result& result : run_device(rows, items))
      ++seen.at(static_cast<size_t>(result.token.token_id));
    double statistic = 0;
    for (size_t i = 0; i < 600; ++i) {
      const double expected = probability[i] / total * kCount;
      if (expected == 0) {
        EXPECT_NOTE(seen[i] == 0, "token " + std::to_string(i) + " can't come");
      } else {
        statistic += (seen[i] - expected) * (seen[i] - expected) / expected;
      }
    }
    // Of 5 degrees of freedom at most: 1 in 60,000.
    EXPECT_NOTE(statistic < 30,
                "chi-square " + std::to_string(statistic) + " with top_k " + std::to_string(c.top_k));
  }
}

TEST("device sampling: more log-probs than a list holds are refused with both numbers") {
  std::vector<Row> rows(1);
  rows[0].logits.assign(5000, 0.0F);
  const auto run = [&] { run_device(rows, {{.logprobs = 1025}}); };
  EXPECT(test::code_of(run) == "step_failed");
  EXPECT(test::sentence_of(run).find("1025") != std::string::npos);
  EXPECT(test::sentence_of(run).find("1024") != std::string::npos);
}

TEST("device sampling: a slot's counters and lists are made of what lies in page-locked memory, however long") {
  Random random(1100);
  const uint32_t vocab = 3000;
  for (const uint32_t tokens : {0U, 1U, 1023U, 1025U, 4096U, 4097U, 30000U}) {
    const uint32_t list_words = tokens % 700;
    const uint32_t prompt_tokens = tokens - tokens / 3;
    const PinnedBuffer<uint32_t> words = zeroed_pinned<uint32_t>(5 + tokens + list_words + 1);
    for (uint64_t i = 0; i < words.count(); ++i) words.data()[i] = static_cast<uint32_t>(random.bits() % vocab);
    std::vector<uint32_t> expected(vocab, 0);
    for (uint32_t i = 0; i < tokens; ++i) {
      uint32_t& counter = expected[words.data()[5 + i]];
      counter = i < prompt_tokens ? counter | kPromptFlag : counter + 1;
    }
    const DeviceBuffer<uint32_t> counts(vocab), list(list_words + 1);
    check(cudaMemset(counts.data(), 0xff, counts.bytes()), "cudaMemset");
    check(cudaMemset(list.data(), 0xff, list.bytes()), "cudaMemset");
    const PinnedBuffer<SlotOpening> opening = zeroed_pinned<SlotOpening>(1);
    *opening.data() = {counts.data(), 5, tokens, prompt_tokens, list.data(), 5 + tokens, list_words};
    open_sampling_slots(opening.data(), 1, words.data(), vocab, nullptr);
    std::vector<uint32_t> got(vocab), got_list(list_words + 1);
    check(cudaMemcpy(got.data(), counts.data(), counts.bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    check(cudaMemcpy(got_list.data(), list.data(), list.bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    const std::string note = std::to_string(tokens) + " tokens";
    for (uint32_t i = 0; i < vocab; ++i) {
      EXPECT_NOTE(got[i] == expected[i], note + ", counter " + std::to_string(i) + ": got " +
                                             std::to_string(got[i]) + ", expected " + std::to_string(expected[i]));
    }
    for (uint32_t i = 0; i < list_words; ++i) {
      EXPECT_NOTE(got_list[i] == words.data()[5 + tokens + i], note + ", list word " + std::to_string(i));
    }
    EXPECT_NOTE(got_list[list_words] == UINT32_MAX, note + ": wrote behind the list");
  }
}

}  // namespace kadenz::cuda::sampling_test
