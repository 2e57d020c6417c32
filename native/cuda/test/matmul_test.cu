// The matmuls: against a naive twin in double, and bits across numbers of rows, places, slices, output kinds,
// graphs.
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/check.h"
#include "cuda/kernels/matmul_probe.h"
#include "cuda/kernels/plain_matmul.h"
#include "cuda/matmul.h"
#include "cuda/scratch_memory.h"
#include "matmul_device.cuh"
#include "random.h"

namespace kadenz::test {
namespace {

using namespace kadenz::cuda;
using namespace kadenz::cuda::matmul_test;

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

}  // namespace
}  // namespace kadenz::test
