// What the report does with a run that is too large to draw in full. The trace is recorded, not made up: many small requests, many steps.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type History, readHistory } from '../../src/trace/index.js';
import { reportPage } from '../../src/trace/view/index.js';
import { MAX_LANES, MAX_POINTS, type ReportData, reportData } from '../../src/trace/view/report_data.js';
import { promptOf, RecordedRun, removeRecordings } from './recorded.js';

const LONG = [102, 211, 333, 444, 555, 666, 777, 888, 999, 1110];

let history: History;
let data: ReportData;

beforeAll(async () => {
  const run = await RecordedRun.create('long.kdz', { maxNumSeqs: 4, maxStepsInFlight: 1 });
  let nextId = 1;
  for (let round = 0; round < 26; round += 1) {
    const requests = Array.from({ length: 50 }, () => {
      const id = nextId++;
      return {
        id,
        n: 2,
        promptTokenIds: promptOf(8, id),
        maxTokens: LONG.includes(id) ? 60 : 4,
        ignoreEos: true,
      };
    });
    run.apply({ type: 'addRequests', requests });
    run.run();
  }
  history = await readHistory(await run.end());
  data = reportData(history, { startUs: 0, endUs: history.end.timeUs });
});

afterAll(removeRecordings);

describe('a report of a large run', () => {
  it('keeps to its limits, and says what it left out', async () => {
    expect(history.steps.count).toBeGreaterThan(MAX_POINTS);
    expect(data.steps.timeUs.length).toBeLessThanOrEqual(MAX_POINTS);
    expect(data.lanes.length).toBeLessThanOrEqual(MAX_LANES);
    expect(data.lanes.length).toBeGreaterThan(MAX_LANES * 0.9);
    expect(data.notes.join(' ')).toMatch(/The timeline shows [\d,]+ of 1,300 requests: the longest/);
    expect(data.notes.join(' ')).toMatch(/Each point of the curves is the mean of \d+ steps/);
    const page = await reportPage(history);
    for (const note of data.notes) expect(page).toContain(note);
  });

  it('shows the longest requests whatever is left out', () => {
    const titles = data.lanes.map(({ title }) => title);
    for (const id of LONG) expect(titles).toContain(`Request ${id}, sample 0`);
  });

  it('spreads the others over the whole run', () => {
    const ids = new Set(data.lanes.map(({ title }) => Number(/\d+/.exec(title)![0])));
    for (let first = 1; first <= 1300; first += 100)
      expect([first, [...ids].filter((id) => id >= first && id < first + 100).length > 30]).toEqual([
        first,
        true,
      ]);
  });

  it('keeps the sums of what it averages: rows by time', () => {
    const { timeUs, decodeRows } = data.steps;
    const area = timeUs.reduce((sum, us, i) => sum + decodeRows[i]! * ((timeUs[i + 1] ?? us) - us), 0);
    let whole = 0;
    for (let step = 1; step <= history.steps.count; step += 1) {
      const row = history.steps.row(step);
      whole += (row.rows - row.prefillRows) * (row.committedUs - history.steps.beginUs(step));
    }
    expect(area / whole).toBeGreaterThan(0.99);
    expect(area / whole).toBeLessThan(1.01);
  });

  it('counts every token in its windows', () => {
    const width = data.endUs / (data.windows.timeUs.length - 1);
    const tokens = data.windows.tokensPerSecond
      .slice(0, -1)
      .reduce((sum, rate) => sum + (rate * width) / 1_000_000, 0);
    expect(tokens / history.stats.generationTokens).toBeCloseTo(1, 2);
    expect(data.windows.finishedShare.at(-1)).toBe(100);
  });
});
