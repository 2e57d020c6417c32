// The matmuls and their certificate: against a naive twin in double, bits across numbers of rows, places,
// slices, output kinds, graphs; and the self-test must be able to fail.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/certificate.h"
#include "cuda/check.h"
#include "cuda/kernels/matmul_probe.h"
#include "cuda/kernels/plain_matmul.h"
#include "cuda/matmul.h"
#include "cuda/scratch_memory.h"
#include "random.h"

namespace kadenz::test {
namespace {

using namespace kadenz::cuda;

constexpr uint64_t kGuardBytes = 4096;

uint16_t half_bits(Half dtype, float value) {
  if (dtype == Half::kBFloat16) return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  return __half_as_ushort(__float2half_rn(value));
}

float widened(Half dtype, uint16_t bits) {
  return dtype == Half::kBFloat16 ? __bfloat162float(__ushort_as_bfloat16(bits))
                                  : __half2float(__ushort_as_half(bits));
}

struct Operand {
  Half dtype;
  std::vector<uint16_t> bits;
  ScratchMemory device;

  Operand(Half dtype_, Random& random, uint64_t count) : dtype(dtype_), bits(count), device(count * 2) {
    for (uint16_t& value : bits) value = half_bits(dtype, random.uniform());
    check(cudaMemcpy(device.get(), bits.data(), count * 2, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  float at(uint64_t index) const { return widened(dtype, bits[index]); }
};

struct Shape {
  Half dtype;
  uint32_t rows, outputs, inputs;

  std::string words() const {
    return std::to_string(rows) + " rows x " + std::to_string(outputs) + " outputs x " +
           std::to_string(inputs) + " inputs, " + (dtype == Half::kBFloat16 ? "bfloat16" : "float16") +
           ", seed " + std::to_string(base_seed());
  }
};

// A Matmul with its workspace.
struct Fixture {
  ScratchMemory workspace{Matmul::kWorkspaceBytes};
  Matmul matmul;
  explicit Fixture(Half dtype) : matmul(dtype, Matmul::kWorkspaceBytes, workspace.get()) {}
};

// A poisoned output with a guard behind it.
struct Output {
  uint64_t bytes;
  ScratchMemory device;

  explicit Output(uint64_t bytes_) : bytes(bytes_), device(bytes_ + kGuardBytes) {
    check(cudaMemset(device.get(), 0xFF, bytes + kGuardBytes), "cudaMemset");
  }
  std::vector<uint8_t> read(const std::string& note) const {
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::vector<uint8_t> all(bytes + kGuardBytes);
    check(cudaMemcpy(all.data(), device.get(), all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (uint64_t i = 0; i < kGuardBytes; ++i) {
      EXPECT_NOTE(all[bytes + i] == 0xFF, "guard byte " + std::to_string(i) + " behind the output: " + note);
    }
    all.resize(bytes);
    return all;
  }
};

// The float32 result [rows][outputs] of run(), the partials of its slices added in order.
std::vector<float> run_float(Matmul& matmul, const Shape& shape, const void* weight, const void* input) {
  const uint64_t padded = Matmul::padded_rows(shape.rows);
  const uint32_t parts = matmul.slices_written(shape.rows, shape.outputs, shape.inputs);
  const Output output(parts * padded * shape.outputs * 4);
  matmul.run(weight, input, shape.rows, shape.outputs, shape.inputs, output.device.get(),
             MatmulOutput::kFloat32, nullptr);
  const std::vector<uint8_t> bytes = output.read(shape.words());
  std::vector<float> partials(bytes.size() / 4);
  std::memcpy(partials.data(), bytes.data(), bytes.size());
  std::vector<float> sums(partials.begin(), partials.begin() + uint64_t{shape.rows} * shape.outputs);
  for (uint32_t part = 1; part < parts; ++part) {
    for (uint64_t i = 0; i < sums.size(); ++i) sums[i] += partials[part * padded * shape.outputs + i];
  }
  return sums;
}

std::vector<uint16_t> run_half(Matmul& matmul, const Shape& shape, const void* weight, const void* input) {
  const Output output(uint64_t{Matmul::padded_rows(shape.rows)} * shape.outputs * 2);
  matmul.run(weight, input, shape.rows, shape.outputs, shape.inputs, output.device.get(), MatmulOutput::kHalf,
             nullptr);
  const std::vector<uint8_t> bytes = output.read(shape.words());
  std::vector<uint16_t> values(uint64_t{shape.rows} * shape.outputs);
  std::memcpy(values.data(), bytes.data(), values.size() * 2);
  return values;
}

// Holds up to 24 of the rows, the first and last among them, against sums in double.
void expect_near_twin(const Shape& shape, const Operand& weight, const Operand& input,
                      const std::vector<float>& got, double limit, Random& random) {
  std::vector<uint32_t> rows{0, shape.rows - 1};
  for (int i = 0; i < 22; ++i) rows.push_back(static_cast<uint32_t>(random.integer(0, shape.rows - 1)));
  double error = 0.0;
  double size = 0.0;
  double worst = -1.0;
  std::string worst_words;
  for (const uint32_t row : rows) {
    for (uint32_t n = 0; n < shape.outputs; ++n) {
      double expected = 0.0;
      for (uint32_t k = 0; k < shape.inputs; ++k) {
        expected += double{input.at(uint64_t{row} * shape.inputs + k)} *
                    double{weight.at(uint64_t{n} * shape.inputs + k)};
      }
      const float value = got[uint64_t{row} * shape.outputs + n];
      const std::string place = "row " + std::to_string(row) + " output " + std::to_string(n) + " got " +
                                std::to_string(value) + " expected " + std::to_string(expected);
      EXPECT_NOTE(std::isfinite(value), place + ": " + shape.words());
      const double difference = std::fabs(value - expected);
      error += difference * difference;
      size += expected * expected;
      if (difference > worst) {
        worst = difference;
        worst_words = place;
      }
    }
  }
  const double relative = std::sqrt(error / size);
  EXPECT_NOTE(relative <= limit, "relative error " + std::to_string(relative) + ", worst at " + worst_words +
                                     ": " + shape.words());
}

// The rows of `part` are those of `whole` from first_row on, bit for bit.
template <class T>
void expect_same_rows(const std::vector<T>& part, const std::vector<T>& whole, uint64_t first_row,
                      const Shape& shape, const char* what) {
  for (uint64_t i = 0; i < part.size(); ++i) {
    const T& expected = whole[first_row * shape.outputs + i];
    if (std::memcmp(&part[i], &expected, sizeof(T)) == 0) continue;
    EXPECT_NOTE(false, std::string(what) + ": row " + std::to_string(i / shape.outputs) + " (" +
                           std::to_string(first_row + i / shape.outputs) + " of the whole), output " +
                           std::to_string(i % shape.outputs) + " got " + std::to_string(part[i]) +
                           " expected " + std::to_string(expected) + ": " + shape.words());
  }
}

Shape draw(Random& random) {
  return {random.one_of({Half::kBFloat16, Half::kFloat16}),
          static_cast<uint32_t>(random.one_of<int64_t>({1, 2, 7, 8, 33, 100, 257, 520})),
          static_cast<uint32_t>(random.one_of<int64_t>({6, 40, 64, 128, 413, 520, 640})),
          static_cast<uint32_t>(random.one_of<int64_t>({6, 40, 64, 136, 250, 896, 1024}))};
}

TEST(
    "the ladder of row counts never shrinks a step, repeats itself on its rungs and pads by less than half") {
  uint32_t before = 0;
  for (uint32_t rows = 1; rows <= 20000; ++rows) {
    const uint32_t padded = Matmul::padded_rows(rows);
    const std::string note = std::to_string(rows) + " became " + std::to_string(padded);
    EXPECT_NOTE(padded >= rows && padded >= before, note);
    EXPECT_NOTE(Matmul::padded_rows(padded) == padded, note);
    EXPECT_NOTE(padded < 2 * rows || rows == 1, note);
    before = padded;
  }
  EXPECT(Matmul::padded_rows(7) == 8 && Matmul::padded_rows(9) == 16 && Matmul::padded_rows(65) == 80);
  EXPECT(Matmul::padded_rows(129) == 160 && Matmul::padded_rows(257) == 384 &&
         Matmul::padded_rows(2049) == 2560);
}

TEST("matmuls of random shapes are near their twin in double, whichever kernel takes them") {
  Random random(901);
  for (int i = 0; i < 24; ++i) {
    const Shape shape = draw(random);
    Fixture fixture(shape.dtype);
    const Operand weight(shape.dtype, random, uint64_t{shape.outputs} * shape.inputs);
    const Operand input(shape.dtype, random, uint64_t{Matmul::padded_rows(shape.rows)} * shape.inputs);
    expect_near_twin(shape, weight, input,
                     run_float(fixture.matmul, shape, weight.device.get(), input.device.get()), 1e-4, random);
  }
}

TEST("a matmul in slices is near its twin in double") {
  Random random(902);
  for (const uint32_t rows : {3U, 600U}) {
    const Shape shape{Half::kBFloat16, rows, 256, 8192};
    Fixture fixture(shape.dtype);
    EXPECT(fixture.matmul.slices(shape.outputs, shape.inputs) == 2);
    EXPECT(fixture.matmul.slices_written(rows, shape.outputs, shape.inputs) == (rows > 512 ? 1 : 2));
    const Operand weight(shape.dtype, random, uint64_t{shape.outputs} * shape.inputs);
    const Operand input(shape.dtype, random, uint64_t{Matmul::padded_rows(rows)} * shape.inputs);
    expect_near_twin(shape, weight, input,
                     run_float(fixture.matmul, shape, weight.device.get(), input.device.get()), 1e-4, random);
  }
}

TEST("a Half output is the float32 sum rounded once to nearest even") {
  Random random(903);
  for (int i = 0; i < 16; ++i) {
    const Shape shape = draw(random);
    Fixture fixture(shape.dtype);
    Matmul& matmul = fixture.matmul;
    if (matmul.uses_plain_kernel(shape.outputs, shape.inputs, MatmulOutput::kFloat32) !=
        matmul.uses_plain_kernel(shape.outputs, shape.inputs, MatmulOutput::kHalf)) {
      continue;  // two kernels, two orders of additions
    }
    const Operand weight(shape.dtype, random, uint64_t{shape.outputs} * shape.inputs);
    const Operand input(shape.dtype, random, uint64_t{Matmul::padded_rows(shape.rows)} * shape.inputs);
    const std::vector<float> sums = run_float(matmul, shape, weight.device.get(), input.device.get());
    std::vector<uint16_t> rounded(sums.size());
    for (uint64_t n = 0; n < sums.size(); ++n) rounded[n] = half_bits(shape.dtype, sums[n]);
    expect_same_rows(run_half(matmul, shape, weight.device.get(), input.device.get()), rounded, 0, shape,
                     "rounded by the matmul and by the host");
  }
}

TEST("shapes of real models run on cuBLASLt, shapes off the 16-byte grid on the plain kernel") {
  Fixture fixture(Half::kBFloat16);
  for (const auto& [outputs, inputs] :
       std::vector<std::pair<uint32_t, uint32_t>>{{1152, 896}, {2048, 1536}, {3584, 18944}, {151936, 896}}) {
    EXPECT_NOTE(!fixture.matmul.uses_plain_kernel(outputs, inputs, MatmulOutput::kFloat32),
                std::to_string(outputs) + " x " + std::to_string(inputs));
  }
  EXPECT(!fixture.matmul.uses_plain_kernel(9728, 896, MatmulOutput::kHalf));
  EXPECT(fixture.matmul.uses_plain_kernel(413, 6, MatmulOutput::kFloat32));
  EXPECT(fixture.matmul.uses_plain_kernel(36, 250, MatmulOutput::kHalf));
}

TEST("a row has equal bits among 1, 2, 7, 64, 256 and 1000 rows, wherever it lies") {
  constexpr uint32_t kMost = 1000;
  for (const auto& [outputs, inputs] : std::vector<std::pair<uint32_t, uint32_t>>{
           {3584, 18944}, {1536, 8960}, {4608, 3584}, {2048, 1536}, {413, 40}}) {
    for (const Half dtype : {Half::kBFloat16, Half::kFloat16}) {
      Fixture fixture(dtype);
      const Shape whole_shape{dtype, kMost, outputs, inputs};
      const uint64_t input_count = uint64_t{Matmul::padded_rows(kMost)} * inputs;
      const ScratchMemory weight(uint64_t{outputs} * inputs * 2);
      // Behind the last row a launch of few rows still reads its padding.
      const ScratchMemory input(input_count * 2);
      fill_operand(dtype, weight.get(), uint64_t{outputs} * inputs, base_seed() + 1, nullptr);
      fill_operand(dtype, input.get(), input_count, base_seed() + 2, nullptr);
      const std::vector<float> whole = run_float(fixture.matmul, whole_shape, weight.get(), input.get());
      for (uint64_t i = 0; i < whole.size(); ++i) {
        if (!std::isfinite(whole[i]))
          EXPECT_NOTE(false, "element " + std::to_string(i) + ": " + whole_shape.words());
      }
      for (const uint32_t rows : {1U, 2U, 7U, 64U, 256U}) {
        for (const uint32_t first_row : {0U, 333U, 1000U - 256U}) {
          const Shape shape{dtype, rows, outputs, inputs};
          const void* part = static_cast<const uint8_t*>(input.get()) + uint64_t{first_row} * inputs * 2;
          expect_same_rows(run_float(fixture.matmul, shape, weight.get(), part), whole, first_row, shape,
                           "few rows against 1000");
        }
      }
      fixture.matmul.set_slices(0);  // forgets the plans
      for (const uint32_t rows : {1U, 7U, 64U, 256U}) {
        const Shape shape{dtype, rows, outputs, inputs};
        // By turns timed ahead and timed by the run itself.
        fixture.matmul.set_timing(rows == 7 || rows == 256);
        if (rows == 1) fixture.matmul.prepare(rows, outputs, inputs, MatmulOutput::kFloat32);
        if (rows == 64) fixture.matmul.prepare(rows, outputs, inputs, MatmulOutput::kFloat32, weight.get());
        expect_same_rows(run_float(fixture.matmul, shape, weight.get(), input.get()), whole, 0, shape,
                         "a timed plan against 1000 rows");
      }
    }
  }
}

TEST("slices added one after the other have the bits of their partials added in order") {
  for (const uint32_t slices : {2U, 4U}) {
    for (const uint32_t rows : {1U, 64U, 512U}) {
      Fixture fixture(Half::kBFloat16);
      Matmul& matmul = fixture.matmul;
      matmul.set_slices(slices);
      const Shape shape{Half::kBFloat16, rows, 1024, 4096};
      EXPECT(matmul.slices(shape.outputs, shape.inputs) == slices);
      const ScratchMemory weight(uint64_t{shape.outputs} * shape.inputs * 2);
      const ScratchMemory input(uint64_t{rows} * shape.inputs * 2);
      fill_operand(shape.dtype, weight.get(), uint64_t{shape.outputs} * shape.inputs, base_seed() + 3,
                   nullptr);
      fill_operand(shape.dtype, input.get(), uint64_t{rows} * shape.inputs, base_seed() + 4, nullptr);
      const std::vector<float> partials = run_float(matmul, shape, weight.get(), input.get());
      const auto problem =
          matmul.problem(rows, shape.outputs, shape.inputs, MatmulOutput::kFloat32, /*accumulated=*/true);
      EXPECT(!problem->shape().batched);
      const auto algorithms = matmul.algorithms(*problem, matmul.config_ids(), 4);
      EXPECT(!algorithms.empty());
      for (const MatmulAlgorithm& algorithm : algorithms) {
        const Output output(uint64_t{rows} * shape.outputs * 4);
        problem->launch(
            algorithm,
            {weight.get(), input.get(), output.device.get(), matmul.workspace(), matmul.workspace_bytes()},
            nullptr);
        const std::vector<uint8_t> bytes = output.read(shape.words());
        std::vector<float> accumulated(bytes.size() / 4);
        std::memcpy(accumulated.data(), bytes.data(), bytes.size());
        expect_same_rows(accumulated, partials, 0, shape, "accumulated against partials");
      }
    }
  }
}

TEST("a captured matmul replays to the bits of the eager one") {
  Fixture fixture(Half::kBFloat16);
  const Shape shape{Half::kBFloat16, 24, 1536, 8960};
  const ScratchMemory weight(uint64_t{shape.outputs} * shape.inputs * 2);
  const ScratchMemory input(uint64_t{shape.rows} * shape.inputs * 2);
  fill_operand(shape.dtype, weight.get(), uint64_t{shape.outputs} * shape.inputs, base_seed() + 5, nullptr);
  fill_operand(shape.dtype, input.get(), uint64_t{shape.rows} * shape.inputs, base_seed() + 6, nullptr);
  fixture.matmul.prepare(shape.rows, shape.outputs, shape.inputs, MatmulOutput::kFloat32, weight.get());
  const uint64_t bytes = uint64_t{2} * shape.rows * shape.outputs * 4;
  const Output eager(bytes);
  fixture.matmul.run(weight.get(), input.get(), shape.rows, shape.outputs, shape.inputs, eager.device.get(),
                     MatmulOutput::kFloat32, nullptr);
  const std::vector<uint8_t> expected = eager.read(shape.words());
  const Output replayed(bytes);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  fixture.matmul.run(weight.get(), input.get(), shape.rows, shape.outputs, shape.inputs,
                     replayed.device.get(), MatmulOutput::kFloat32, stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  for (int i = 0; i < 2; ++i) {
    check(cudaMemset(replayed.device.get(), 0xFF, bytes), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the stream does not wait for the default one
    check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
    EXPECT(replayed.read(shape.words()) == expected);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST("an unrestricted matmul is near its twin in double and writes one output") {
  Random random(904);
  const Shape shape{Half::kBFloat16, 16, 256, 8192};
  Fixture fixture(shape.dtype);
  fixture.matmul.set_unrestricted(true);
  EXPECT(fixture.matmul.slices_written(shape.rows, shape.outputs, shape.inputs) == 1);
  const Operand weight(shape.dtype, random, uint64_t{shape.outputs} * shape.inputs);
  const Operand input(shape.dtype, random, uint64_t{shape.rows} * shape.inputs);
  fixture.matmul.prepare(shape.rows, shape.outputs, shape.inputs, MatmulOutput::kFloat32,
                         weight.device.get());
  expect_near_twin(shape, weight, input,
                   run_float(fixture.matmul, shape, weight.device.get(), input.device.get()), 1e-4, random);
}

TEST("a matmul in slices refuses to round its output") {
  Fixture fixture(Half::kBFloat16);
  bool thrown = false;
  try {
    fixture.matmul.prepare(8, 256, 8192, MatmulOutput::kHalf);
  } catch (const std::logic_error&) {
    thrown = true;
  }
  EXPECT(thrown);
}

TEST("the plain kernel is near its twin in double and keeps a row's bits among any number of rows") {
  Random random(905);
  for (const Half dtype : {Half::kBFloat16, Half::kFloat16}) {
    const Shape shape{dtype, 75, 413, 131};
    const Operand weight(dtype, random, uint64_t{shape.outputs} * shape.inputs);
    const Operand input(dtype, random, uint64_t{shape.rows} * shape.inputs);
    const auto run = [&](uint32_t first_row, uint32_t rows) {
      const Output output(uint64_t{rows} * shape.outputs * 4);
      plain_matmul(
          {dtype, weight.device.get(), input.device.as<uint16_t>() + uint64_t{first_row} * shape.inputs, rows,
           shape.outputs, shape.inputs, output.device.get(), false},
          nullptr);
      const std::vector<uint8_t> bytes = output.read(shape.words());
      std::vector<float> values(bytes.size() / 4);
      std::memcpy(values.data(), bytes.data(), bytes.size());
      return values;
    };
    const std::vector<float> whole = run(0, shape.rows);
    expect_near_twin(shape, weight, input, whole, 1e-5, random);
    for (const uint32_t first_row : {0U, 1U, 16U, 74U}) {
      expect_same_rows(run(first_row, 1), whole, first_row, shape, "one row alone");
    }
    expect_same_rows(run(3, 40), whole, 3, shape, "40 rows from the third on");
  }
}

const std::vector<CertifiedShape> kCertified = {{2048, 1536, MatmulOutput::kFloat32},
                                                {1536, 8960, MatmulOutput::kFloat32},
                                                {17920, 1536, MatmulOutput::kHalf},
                                                {413, 6, MatmulOutput::kFloat32}};

TEST("the certificate of a good library finds no differing bit, twice the same") {
  for (const Half dtype : {Half::kBFloat16, Half::kFloat16}) {
    Fixture fixture(dtype);
    const Certificate first = certify(fixture.matmul, kCertified);
    std::printf("        %s: %llu runs\n", first.fingerprint.c_str(),
                static_cast<unsigned long long>(first.comparisons));
    EXPECT_NOTE(first.differing == 0 && first.comparisons >= 32,
                std::to_string(first.differing) + " of " + std::to_string(first.comparisons));
    EXPECT(first.plain_shapes.size() == 1 && first.plain_shapes[0].outputs == 413);
    const std::vector<int32_t> ids = fixture.matmul.config_ids();
    admit(fixture.matmul, first);
    EXPECT(fixture.matmul.config_ids() == ids);
    const Certificate second = certify(fixture.matmul, kCertified);
    EXPECT_NOTE(second.fingerprint == first.fingerprint, second.fingerprint);
  }
}

TEST("one flipped bit in a reference fails the certificate, and nothing is admitted") {
  Fixture fixture(Half::kBFloat16);
  CertificateOptions options;
  options.tamper = [](float* reference, uint64_t rows, uint64_t outputs) {
    uint32_t bits = 0;
    float* last = reference + rows * outputs - 1;
    check(cudaMemcpy(&bits, last, 4, cudaMemcpyDeviceToHost), "cudaMemcpy");
    bits ^= 1;
    check(cudaMemcpy(last, &bits, 4, cudaMemcpyHostToDevice), "cudaMemcpy");
  };
  const Certificate certificate = certify(fixture.matmul, std::span(kCertified).first(1), options);
  EXPECT_NOTE(certificate.comparisons > 0 && certificate.differing == certificate.comparisons,
              std::to_string(certificate.differing) + " of " + std::to_string(certificate.comparisons));
  EXPECT(code_of([&] { admit(fixture.matmul, certificate); }) == "matmul_not_certified");
}

TEST("an algorithm with another order of additions fails the certificate and is not admitted") {
  Fixture fixture(Half::kBFloat16);
  CertificateOptions options;
  options.config_ids = {66, 11, 13, 14, 16};
  fixture.matmul.set_slices(1);  // few rows and a long K are where the library offers them
  const CertifiedShape shapes[] = {{3584, 18944, MatmulOutput::kFloat32},
                                   {1536, 8960, MatmulOutput::kFloat32}};
  const Certificate certificate = certify(fixture.matmul, shapes, options);
  for (const AlgorithmVerdict& verdict : certificate.algorithms) {
    std::printf("        id %d: %u of %u runs differ\n", verdict.config_id, verdict.differing, verdict.runs);
    if (verdict.config_id == 66) EXPECT(verdict.ok());
    if (verdict.config_id == 13 || verdict.config_id == 16) EXPECT(!verdict.ok());
  }
  admit(fixture.matmul, certificate);
  for (const int32_t id : fixture.matmul.config_ids()) EXPECT(id != 13 && id != 16);
}

}  // namespace
}  // namespace kadenz::test
