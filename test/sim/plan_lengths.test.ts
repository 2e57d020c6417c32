import { describe, expect, it } from 'vitest';
import { drawLengths, type LengthStream, longestOf, parseLengths } from '../../dist/sim/plan/lengths.js';
import { exactExp, exactLn } from '../../dist/sim/plan/math.js';
import { temporaryFile } from './plan_cases.js';

const OUTPUT = { flag: '--lengths', field: 'output_tokens' } as const;
const parse = (text: string) => parseLengths(text, OUTPUT);
const draw = (
  text: string,
  more: { seed?: number; prompt?: number; count?: number; most?: number; stream?: LengthStream } = {},
) =>
  Array.from(
    drawLengths(parse(text), { seed: 1, stream: 'output', prompt: 0, count: 8, most: 2 ** 24, ...more }),
  );

describe('logarithm and exponential of the planner', () => {
  const points = Array.from({ length: 4000 }, (_, i) => (i + 1) * 0.0137);

  it('are those of Math to a few units in the last place', () => {
    for (const x of points) {
      expect(Math.abs(exactLn(x) - Math.log(x))).toBeLessThanOrEqual(1e-15 + Math.abs(Math.log(x)) * 5e-16);
      expect(Math.abs(exactExp(x) / Math.exp(x) - 1)).toBeLessThan(2e-15);
      expect(Math.abs(exactExp(-x) / Math.exp(-x) - 1)).toBeLessThan(2e-15);
    }
  });

  it('have the bits that they have on every machine', () => {
    const bits = (value: number) => {
      const view = new DataView(new ArrayBuffer(8));
      view.setFloat64(0, value);
      return view.getBigUint64(0).toString(16);
    };
    expect([0.1, 2, 1e-9, 12_345.678].map((x) => bits(exactLn(x)))).toMatchInlineSnapshot(`
      [
        "c0026bb1bbb55515",
        "3fe62e42fefa39ef",
        "c034b927f32bffb8",
        "4022d79559791e31",
      ]
    `);
    expect([0.1, 1, -3.3, 20.5].map((x) => bits(exactExp(x)))).toMatchInlineSnapshot(`
      [
        "3ff1aec7b35a00d4",
        "4005bf0a8b14576a",
        "3fa2e259bb85be84",
        "41c7d6c4f0bcdd5c",
      ]
    `);
  });

  it('are refused where there is none', () => {
    for (const x of [0, -1, Number.NaN, Number.POSITIVE_INFINITY])
      expect(() => exactLn(x)).toThrow(RangeError);
    for (const x of [Number.NaN, 1e6]) expect(() => exactExp(x)).toThrow(RangeError);
  });
});

describe('lengths', () => {
  it('of fixed:N are all N, and what is longer than it may be is cut', () => {
    expect(draw('fixed:512', { count: 3 })).toEqual([512, 512, 512]);
    expect(draw('fixed:512', { count: 2, most: 100 })).toEqual([100, 100]);
  });

  it('of a log-normal have its median and its sigma, and stay within 1 and the cap', () => {
    const lengths = draw('lognormal:1000,0.8,6000', { count: 20_000 }).sort((a, b) => a - b);
    expect(lengths[0]).toBeGreaterThanOrEqual(1);
    expect(lengths.at(-1)).toBe(6000);
    expect(lengths[10_000]! / 1000).toBeCloseTo(1, 1);
    // One sigma above the median stand 84.13% of the samples.
    expect(Math.log(lengths[16_826]! / 1000)).toBeCloseTo(0.8, 1);
  });

  it('depend on seed, stream and prompt alone, and a longer row begins like a shorter one', () => {
    const lengths = draw('lognormal:1000,1');
    expect(draw('lognormal:1000,1', { count: 4 })).toEqual(lengths.slice(0, 4));
    expect(draw('lognormal:1000,1', { seed: 2 })).not.toEqual(lengths);
    expect(draw('lognormal:1000,1', { seed: 1 + 2 ** 32 })).not.toEqual(lengths);
    expect(draw('lognormal:1000,1', { prompt: 1 })).not.toEqual(lengths);
    expect(draw('lognormal:1000,1', { stream: 'prompt' })).not.toEqual(lengths);
    expect(lengths).toMatchInlineSnapshot(`
      [
        1201,
        2317,
        164,
        4282,
        2274,
        575,
        1178,
        312,
      ]
    `);
  });

  it('come from a file of numbers or of JSON lines, drawn from what is there', () => {
    const numbers = temporaryFile('lengths.txt', '10\n\n20\n30\n');
    const lines = temporaryFile(
      'rollout.jsonl',
      '{"output_tokens": 10, "id": "a"}\n{"output_tokens": 20}\n{"output_tokens":30}\n',
    );
    const drawn = draw(numbers, { count: 300 });
    expect(new Set(drawn)).toEqual(new Set([10, 20, 30]));
    expect(draw(lines, { count: 300 })).toEqual(drawn);
    expect(longestOf(parse(numbers))).toBe(30);
  });

  it.each([
    ['fixed:', 'one whole number'],
    ['fixed:0', 'one whole number'],
    ['fixed:1.5', 'one whole number'],
    ['fixed:10,20', 'one whole number'],
    ['lognormal:100', 'MEDIAN,SIGMA'],
    ['lognormal:100,1,200,3', 'MEDIAN,SIGMA'],
    ['lognormal:0,1', 'median'],
    ['lognormal:abc,1', 'median'],
    ['lognormal:100,-1', 'sigma'],
    ['lognormal:100,', 'sigma'],
    ['lognormal:100,9', 'sigma'],
    ['lognormal:100,1,0.5', 'cap'],
  ])('refuse %s with a sentence that says what is wrong', (text, why) => {
    expect(() => parse(text)).toThrowError(
      expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining(why) }),
    );
    expect(() => parse(text)).toThrow(/^--lengths can't be ".*\.$/);
  });

  it('refuse a file that is not there, is empty, or has a line that is no length, and name the line', () => {
    expect(() => parse('/no/such/file')).toThrowError(expect.objectContaining({ code: 'input_not_found' }));
    expect(() => parse(temporaryFile('empty.txt', '\n'))).toThrow('the file has no length in it');
    expect(() => parse(temporaryFile('bad.txt', '12\nten\n'))).toThrow(/bad\.txt, line 2: "ten"/);
    expect(() => parse(temporaryFile('bad.jsonl', '{"output_tokens": 1}\n{"tokens": 3}\n'))).toThrow(
      /line 2.*"output_tokens"/,
    );
    expect(() => parse(temporaryFile('null.jsonl', 'null\n'))).toThrow(/line 1/);
  });
});
