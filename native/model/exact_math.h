// log, exp, pow, sin and cos in double from addition, multiplication, division and floor alone. The C
// library's own differ from version to version in the last bit, and these feed RoPE tables that feed every
// bit after them. Accurate to a few units in the last place of a double; every result is rounded to float by
// the callers.
#pragma once

namespace kadenz {

double exact_log(double x);                      // x > 0, finite, normal
double exact_exp(double x);                      // |x| < 700
double exact_pow(double base, double exponent);  // base > 0
// |angle| up to 2^24 (beyond 2^20 the error grows to about 1e-9, still far below a float's)
void exact_sin_cos(double angle, double* sine, double* cosine);

}  // namespace kadenz
