// A plan as a drawing: batch size, KV use and finished share over time, a line for each case, and the cases' times side by side. ECharts
// renders it to text, without a browser; text widths are its own estimates, so no font of the machine matters.

import type { CaseResult } from './case.js';
import { formatNumber, formatTime } from './format.js';
import type { SeriesPoint } from './series.js';

const WIDTH = 1100;
const PANEL_HEIGHT = 150;
const PANEL_GAP = 62;
const TOP = 92;
const LEFT = 90;
const BAR_HEIGHT = 26;

interface Panel {
  title: string;
  valueOf(point: SeriesPoint, wanted: number): number;
  most: number | null;
}

const PANELS: readonly Panel[] = [
  { title: 'sequences in a step', valueOf: ({ batch }) => batch, most: null },
  { title: 'KV blocks held (%)', valueOf: ({ kvShare }) => round(kvShare * 100), most: 100 },
  {
    title: 'samples finished (%)',
    valueOf: ({ finished }, wanted) => round((finished / wanted) * 100),
    most: 100,
  },
];

/** The chart library takes half a second to load: it is loaded for whoever asks for a plot. */
export async function planSvg(results: readonly CaseResult[]): Promise<string> {
  const { init } = await import('echarts');
  const barsTop = TOP + PANELS.length * (PANEL_HEIGHT + PANEL_GAP);
  const barsHeight = results.length * BAR_HEIGHT + 10;
  const height = barsTop + barsHeight + 36;
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height });
  const right = 40;
  const [base] = results as [CaseResult, ...CaseResult[]];
  const unit = unitOf(results);
  const grids = PANELS.map((_, i) => ({
    left: LEFT,
    right,
    top: TOP + i * (PANEL_HEIGHT + PANEL_GAP),
    height: PANEL_HEIGHT,
  }));
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    title: [
      { text: headline(base), left: LEFT, top: 12, textStyle: { fontSize: 16 } },
      ...PANELS.map(({ title }, i) => panelTitle(`${title}, over ${unit.name}`, grids[i]!.top - 24)),
      panelTitle(
        `time until the last sample (${unit.name}); the darker end is the tail after 90%`,
        barsTop - 24,
      ),
    ],
    legend: { top: 38, left: LEFT, data: results.map(({ plan }) => plan.name) },
    grid: [...grids, { left: LEFT + 60, right: right + 60, top: barsTop, height: barsHeight }],
    xAxis: [
      ...PANELS.map((_, i) => ({
        type: 'value' as const,
        gridIndex: i,
        max: 'dataMax' as const,
      })),
      { type: 'value' as const, gridIndex: PANELS.length },
    ],
    yAxis: [
      ...PANELS.map(({ most }, i) => ({
        type: 'value' as const,
        gridIndex: i,
        ...(most === null ? {} : { max: most }),
      })),
      {
        type: 'category' as const,
        gridIndex: PANELS.length,
        inverse: true,
        data: results.map(({ plan }) => plan.name),
      },
    ],
    series: [
      ...PANELS.flatMap((panel, i) =>
        results.map((result) => line(result, { panel, index: i, us: unit.us })),
      ),
      ...bars(results, unit.us),
    ],
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return `${renamed(svg)}\n`;
}

/** ECharts counts its names on over all drawings of a process: numbered by appearance, the same plan gives the same bytes. */
function renamed(svg: string): string {
  const names = new Map<string, string>();
  return svg.replace(/\bzr\d+-[a-z]+-?\d+\b/g, (name) => {
    const known = names.get(name) ?? `plan-${names.size}`;
    names.set(name, known);
    return known;
  });
}

function headline({ plan, timeUs }: CaseResult): string {
  const replicas =
    plan.replicas === 1
      ? ''
      : ` on ${formatNumber(plan.replicas)} replicas (curves: the slowest that the core ran)`;
  return `${formatNumber(plan.prompts)} prompts x ${plan.n} samples, ${plan.device.name}${replicas}: ${formatTime(timeUs)}`;
}

function panelTitle(text: string, top: number) {
  return { text, left: LEFT, top, textStyle: { fontSize: 12, fontWeight: 'normal' as const } };
}

function unitOf(results: readonly CaseResult[]): { name: string; us: number } {
  const longest = results.reduce((most, { timeUs }) => Math.max(most, timeUs), 0);
  if (longest >= 2 * 3600e6) return { name: 'hours', us: 3600e6 };
  return longest >= 300e6 ? { name: 'minutes', us: 60e6 } : { name: 'seconds', us: 1e6 };
}

function line(result: CaseResult, { panel, index, us }: { panel: Panel; index: number; us: number }) {
  const wanted = result.points.at(-1)?.finished ?? 1;
  return {
    type: 'line' as const,
    name: result.plan.name,
    xAxisIndex: index,
    yAxisIndex: index,
    showSymbol: false,
    lineStyle: { width: 1.5 },
    data: result.points.map((point) => [round(point.timeUs / us), panel.valueOf(point, wanted)]),
  };
}

/** Two stacked bars: until 90% of the samples are done, and the tail. */
function bars(results: readonly CaseResult[], us: number) {
  const common = {
    type: 'bar' as const,
    xAxisIndex: PANELS.length,
    yAxisIndex: PANELS.length,
    stack: 'time',
    barWidth: 14,
  };
  const label = { show: true, position: 'right' as const, fontSize: 11 };
  return [
    {
      ...common,
      name: 'until 90%',
      itemStyle: { color: '#9db8d9' },
      data: results.map(({ timeUs, tailUs }) => round((timeUs - tailUs) / us)),
    },
    {
      ...common,
      name: 'tail',
      itemStyle: { color: '#3b5f8a' },
      data: results.map(({ timeUs, tailUs }) => ({
        value: round(tailUs / us),
        label: { ...label, formatter: formatTime(timeUs) },
      })),
    },
  ];
}

/** Four digits after the point draw finer than a pixel. */
function round(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}
