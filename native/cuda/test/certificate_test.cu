// The certificate of the matmuls: a good library passes, twice the same, and the self-test is able to fail.
#include "cuda/certificate.h"

#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/check.h"
#include "cuda/matmul.h"
#include "matmul_device.cuh"

namespace kadenz::test {
namespace {

using namespace kadenz::cuda;
using namespace kadenz::cuda::matmul_test;

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
