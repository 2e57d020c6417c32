import { readFileSync } from 'node:fs';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type History, readHistory } from '../../src/trace/index.js';
import { runCli } from '../support/run_cli.js';
import { launchBrowser, type OpenPage, openFile, visibleText } from './browser.js';
import { eventfulRun, type RecordedRun, removeRecordings } from './recorded.js';

/** A busy machine draws late. */
const PATIENCE = { timeout: 15_000 };

const CHARTS = ['timeline', 'running', 'waiting', 'decode_rows', 'prefill_rows', 'blocks', 'throughput'];

let run: RecordedRun;
let history: History;
let html: string;
let browser: Browser;
let opened: OpenPage;

beforeAll(async () => {
  run = await eventfulRun();
  history = await readHistory(run.path);
  const path = `${run.path}.html`;
  const { exitCode } = await runCli(['trace', 'report', run.path, '--html', path]);
  expect(exitCode).toBe(0);
  html = readFileSync(path, 'utf8');
  browser = await launchBrowser();
  opened = await openFile(browser, path);
});

afterAll(async () => {
  await browser?.close();
  removeRecordings();
});

/** Which part of a chart each one shows, in percent of the run. */
const zooms = () =>
  opened.page.evaluate(
    'Object.fromEntries(Object.entries(kadenzCharts).map(([name, chart]) => { const { start, end } = chart.getOption().dataZoom[0]; return [name, [start, end]]; }))',
  ) as Promise<Record<string, [number, number]>>;

/** How many pixels of a chart's canvas have a colour, by name of a custom property of the page. */
const pixelsOf = (page: OpenPage['page'], chart: string, property: string) =>
  page.evaluate(
    `(() => {
      const probe = document.createElement('canvas').getContext('2d');
      probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('${property}').trim();
      probe.fillRect(0, 0, 1, 1);
      const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
      const canvas = document.querySelector('#${chart} canvas');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let i = 0; i < data.length; i += 4)
        if (Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 12 && data[i + 3] > 200) count += 1;
      return count;
    })()`,
  ) as Promise<number>;

describe('kadenz trace report --html', () => {
  it('opens from a file with the network off: it asks for nothing and complains of nothing', () => {
    expect(opened.requests).toEqual([]);
    expect(opened.complaints).toEqual([]);
    expect(html).toContain("default-src 'none'");
    expect(html).not.toMatch(/(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?\/\//i);
    expect(html).not.toMatch(/@import|url\(\s*["']?https?:/i);
  });

  it('keeps the licence of the chart library', () => {
    expect(html).toContain('Licensed to the Apache Software Foundation (ASF)');
  });

  it('states the facts of the run', async () => {
    const facts = await visibleText(opened.page, '.facts');
    const grouped = (value: number) => value.toLocaleString('en-US');
    expect(facts).toContain(`Tokens generated\n${grouped(history.stats.generationTokens)}\n`);
    expect(facts).toContain('Samples\n18\n7 requests: 1 stop, 10 length, 5 abort, 2 refused');
    expect(facts).toContain(`Preemptions\n${history.stats.numPreemptions}\n`);
    expect(await visibleText(opened.page, 'h1')).toBe('eventful.kdz');
    expect(await visibleText(opened.page, 'footer')).toContain('nothing was thinned out');
  });

  it('shows what the trace says as text, never as markup', async () => {
    expect(await visibleText(opened.page, 'header')).toContain('models/</script><b>');
    expect(await opened.page.locator('header b').count()).toBe(0);
    expect(await opened.page.locator('i').count()).toBe(0);
    expect(await opened.page.locator('#data').textContent()).toContain(
      'load adapter 1 (\\u003c/script>\\u003ci>)',
    );
  });

  it('draws every chart in the colours of its legend', async () => {
    const marks: [chart: string, property: string][] = [
      ['timeline', '--queued'],
      ['timeline', '--prefill'],
      ['timeline', '--decode'],
      ['timeline', '--preempted'],
      ['throughput', '--rate'],
    ];
    for (const [chart, property] of marks)
      expect([chart, property, (await pixelsOf(opened.page, chart, property)) > 60]).toEqual([
        chart,
        property,
        true,
      ]);
    // The areas are a little transparent: counted as pixels that are not the background's.
    for (const chart of CHARTS) {
      const drawn = await opened.page.evaluate(
        `(() => { const canvas = document.querySelector('#${chart} canvas');
          return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.filter((value, i) => i % 4 === 3 && value > 0).length; })()`,
      );
      expect([chart, Number(drawn) > 1500]).toEqual([chart, true]);
    }
  });

  it('has a lane for each sample, and its segments are the history', async () => {
    const data = JSON.parse(
      await opened.page.locator('#data').evaluate((element) => element.textContent ?? ''),
    ) as {
      originUs: number;
      lanes: { title: string; end: string }[];
      segments: [number, number, number, number, string][];
      steps: { timeUs: number[]; heldBlocks: number[] };
    };
    const started = history.requests.flatMap(({ samples }) => samples).length;
    expect(data.lanes.length).toBeGreaterThanOrEqual(started);
    expect(data.segments.filter(([, kind]) => kind === 3)).toHaveLength(history.stats.numPreemptions);
    expect(Math.max(...data.steps.heldBlocks)).toBe(
      Math.max(...run.stats.map(({ numHeldBlocks }) => numHeldBlocks)),
    );
    const lane = data.lanes.findIndex(({ title }) => title === 'Request 5');
    const [, , fromUs, toUs] = data.segments.find(([at, kind]) => at === lane && kind === 2)!;
    const { samples } = history.requests.find(({ id }) => id === 5)!;
    expect(data.originUs).toBe(500);
    expect(toUs).toBe(samples[0]!.end!.timeUs - data.originUs);
    expect(fromUs).toBeLessThan(toUs);
  });

  it('zooms all charts together with Ctrl and the wheel, and shows all again', async () => {
    const { page } = opened;
    expect(new Set(Object.values(await zooms()).map(String))).toEqual(new Set(['0,100']));
    const box = (await page.locator('#timeline').boundingBox())!;
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await page.keyboard.down('Control');
    await page.mouse.wheel(0, -240);
    await page.keyboard.up('Control');
    await expect.poll(async () => (await zooms()).throughput![0], PATIENCE).toBeGreaterThan(1);
    const [start, end] = (await zooms()).timeline!;
    expect(end - start).toBeLessThan(99);
    expect(Object.keys(await zooms())).toEqual(CHARTS);
    await expect.poll(async () => new Set(Object.values(await zooms()).map(String)).size, PATIENCE).toBe(1);
    await page.locator('#reset').click();
    await expect
      .poll(async () => new Set(Object.values(await zooms()).map(String)), PATIENCE)
      .toEqual(new Set(['0,100']));
  });

  it('leaves the plain wheel to the page', async () => {
    const { page } = opened;
    const box = (await page.locator('#timeline').boundingBox())!;
    await page.mouse.move(box.x + box.width / 2, box.y + 60);
    await page.mouse.wheel(0, 300);
    await expect.poll(() => page.evaluate('window.scrollY'), PATIENCE).toBeGreaterThan(0);
    expect((await zooms()).timeline).toEqual([0, 100]);
    await page.evaluate('window.scrollTo(0, 0)');
  });

  it('tells on hovering what a sample did, and what a curve says', async () => {
    const { page } = opened;
    const [x, y] = (await page.evaluate(
      "(() => { const box = document.getElementById('timeline').getBoundingClientRect(); const data = JSON.parse(document.getElementById('data').textContent);" +
        'const [lane, , from, to] = data.segments.filter(([, kind]) => kind === 2).sort((a, b) => b[3] - b[2] - (a[3] - a[2]))[0];' +
        'const [x, y] = kadenzCharts.timeline.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, [(from + to) / 2, lane]);' +
        'return [box.x + x, box.y + y]; })()',
    )) as [number, number];
    await page.mouse.move(x, y);
    await expect
      .poll(() => visibleText(page, '#timeline'), PATIENCE)
      .toMatch(/Request \d+[\s\S]*decode: steps \d+-\d+, tokens/);
    const curve = page.locator('#blocks');
    await curve.scrollIntoViewIfNeeded();
    const box = (await curve.boundingBox())!;
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await expect
      .poll(() => visibleText(page, '#blocks'), PATIENCE)
      .toMatch(/held\s+\d+[\s\S]*cached\s+\d+[\s\S]*free\s+\d+/);
  });

  it('tells on hovering a dashed line which commands came then, and what became of them', async () => {
    const { page } = opened;
    await page.evaluate('window.scrollTo(0, 0)');
    const [x, y] = (await page.evaluate(
      "(() => { const box = document.getElementById('timeline').getBoundingClientRect(); const data = JSON.parse(document.getElementById('data').textContent);" +
        "const [timeUs] = data.commands.find(([, texts]) => texts.some((text) => text.startsWith('begin')));" +
        'const [x] = kadenzCharts.timeline.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, [timeUs, 0]);' +
        'return [box.x + x, box.y + 42]; })()',
    )) as [number, number];
    await page.mouse.move(x, y);
    await expect
      .poll(() => visibleText(page, '#timeline'), PATIENCE)
      .toMatch(
        /begin a weight update: carried out\nfinish the weight update \(version 1, succeeded\): carried out/,
      );
  });

  it('has a dark dress of its own', async () => {
    const dark = await openFile(browser, `${run.path}.html`, { colorScheme: 'dark' });
    expect(dark.complaints).toEqual([]);
    expect(await dark.page.evaluate('getComputedStyle(document.body).backgroundColor')).toBe(
      'rgb(16, 21, 28)',
    );
    expect(await pixelsOf(dark.page, 'timeline', '--decode')).toBeGreaterThan(60);
    await dark.page.emulateMedia({ colorScheme: 'light' });
    await expect.poll(() => pixelsOf(dark.page, 'timeline', '--decode'), PATIENCE).toBeGreaterThan(60);
  });
});
