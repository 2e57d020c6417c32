// Logarithm and exponential that give the same bits on every machine.
//
// Math.log and Math.exp may differ in their last bit between engines and processors, and a length that is drawn through them could then
// round another way. Here only + - * / and Math.sqrt occur, which IEEE 754 fixes. Accurate to a few units in the last place.

const LN2_HIGH = 0.6931471803691238; // the upper bits of ln 2, so that k * LN2_HIGH is exact
const LN2_LOW = 1.9082149292705877e-10;
/** Enough for |s| <= 0.1716 of the series of artanh, and for |r| <= 0.3466 of that of exp. */
const LN_TERMS = 11;
const EXP_TERMS = 15;

/** Natural logarithm of a positive, finite number. */
export function exactLn(x: number): number {
  if (!(x > 0 && x < Number.POSITIVE_INFINITY)) throw new RangeError(`the logarithm of ${x} was asked for`);
  let mantissa = x;
  let exponent = 0;
  while (mantissa >= 2 * Math.SQRT1_2) {
    mantissa /= 2;
    exponent += 1;
  }
  while (mantissa < Math.SQRT1_2) {
    mantissa *= 2;
    exponent -= 1;
  }
  const s = (mantissa - 1) / (mantissa + 1);
  const square = s * s;
  let series = 0;
  for (let term = LN_TERMS; term >= 0; term -= 1) series = series * square + 1 / (2 * term + 1);
  return exponent * LN2_HIGH + (2 * s * series + exponent * LN2_LOW);
}

/** e to the power of x, for |x| up to 700. */
export function exactExp(x: number): number {
  if (!(x >= -700 && x <= 700)) throw new RangeError(`e to the power of ${x} was asked for`);
  const twos = Math.floor(x / (LN2_HIGH + LN2_LOW) + 0.5);
  const rest = x - twos * LN2_HIGH - twos * LN2_LOW;
  let series = 1;
  for (let term = EXP_TERMS; term >= 1; term -= 1) series = 1 + (rest / term) * series;
  let power = 1;
  for (let i = 0; i < Math.abs(twos); i += 1) power *= twos < 0 ? 0.5 : 2;
  return series * power;
}
