#include "model/exact_math.h"

#include <bit>
#include <cmath>
#include <cstdint>

namespace kadenz {
namespace {

// ln 2 and pi / 2 in pieces whose low bits are zero, so that n * high is exact for the n that occur.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kInverseLn2 = 0x1.71547652b82fep+0;
constexpr double kHalfPiHigh = 0x1.921fb544p+0;  // 33 bits less trailing zeros: exact up to n = 2^20
constexpr double kHalfPiMiddle = 0x1.0b4611a6p-34;
constexpr double kHalfPiLow = 0x1.3198a2e037073p-69;
constexpr double kInverseHalfPi = 0x1.45f306dc9c883p-1;

}  // namespace

double exact_log(double x) {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>((bits >> 52) & 0x7ff) - 1023;
  double mantissa = std::bit_cast<double>((bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL);
  if (mantissa > 1.4142135623730951) {
    mantissa *= 0.5;
    exponent += 1;
  }
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double square = s * s;
  double series = 0.0;
  for (int odd = 23; odd >= 3; odd -= 2) series = (series + 1.0 / odd) * square;
  const double log_mantissa = 2.0 * s + 2.0 * s * series;
  const double n = static_cast<double>(exponent);
  return n * kLn2High + (log_mantissa + n * kLn2Low);
}

double exact_exp(double x) {
  const double n = std::floor(x * kInverseLn2 + 0.5);
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln 2 / 2
  double series = 1.0;
  for (int term = 15; term >= 1; --term) series = 1.0 + series * r / term;
  return std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52) * series;
}

double exact_pow(double base, double exponent) { return exact_exp(exponent * exact_log(base)); }

void exact_sin_cos(double angle, double* sine, double* cosine) {
  const double n = std::floor(angle * kInverseHalfPi + 0.5);
  const double r = ((angle - n * kHalfPiHigh) - n * kHalfPiMiddle) - n * kHalfPiLow;  // |r| <= pi / 4
  const double square = r * r;
  double sine_series = 1.0;
  for (int k = 17; k >= 3; k -= 2) sine_series = 1.0 - sine_series * square / (k * (k - 1));
  double cosine_series = 1.0;
  for (int k = 18; k >= 2; k -= 2) cosine_series = 1.0 - cosine_series * square / (k * (k - 1));
  const double s = r * sine_series;
  const double c = cosine_series;
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      *sine = s;
      *cosine = c;
      break;
    case 1:
      *sine = c;
      *cosine = -s;
      break;
    case 2:
      *sine = -s;
      *cosine = -c;
      break;
    default:
      *sine = -c;
      *cosine = s;
      break;
  }
}

}  // namespace kadenz
