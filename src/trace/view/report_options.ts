// How the report's charts look: options for the chart library, one function per chart. Runs in the browser: the function's text is put into the
// page, so it uses nothing of this module but what stands within it, and what it is given.

import type { ReportData } from './report_data.js';
import type { Page } from './report_page.js';

interface Point {
  x: number;
  y: number;
}

interface RenderParams {
  dataIndex: number;
  coordSys: Point & { width: number; height: number };
}

interface RenderApi {
  value(index: number): number;
  coord(value: [number, number]): [number, number];
  size(value: [number, number]): [number, number];
}

/** How much is in view now. */
export interface View {
  us(): number;
  lanes(): number;
}

export function reportOptions(data: ReportData, page: Page, view: View): Record<string, () => object> {
  const { endUs, lanes, segments, commands, steps, windows } = data;
  const spanUs = endUs;
  const GRID_LEFT = 76;
  const GRID_RIGHT = 64;
  const kindNames = ['queued', 'prefill', 'decode', 'preempted'];
  const kindColors = ['queued', 'prefill', 'decode', 'preempted'].map((name) => `--${name}`);

  /** Asked for thousands of times while the timeline is drawn, and known until the options are made anew. */
  const colors = new Map<string, string>();
  const color = (name: string) => {
    let known = colors.get(name);
    if (known === undefined) {
      known = page.getComputedStyle(page.document.documentElement).getPropertyValue(name).trim();
      colors.set(name, known);
    }
    return known;
  };
  const grouped = (value: number) => value.toLocaleString('en-US', { maximumFractionDigits: 1 });
  const escaped = (text: string) =>
    text.replace(/[&<>"]/g, (letter) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[letter]!);

  /** Since the first event, with the digits that tell times apart which lie `nearUs` from each other. */
  const timeText = (us: number, nearUs: number) => {
    const [unit, name] =
      spanUs < 20_000
        ? [1, 'us']
        : spanUs < 2_000_000
          ? [1000, 'ms']
          : spanUs < 600_000_000
            ? [1_000_000, 's']
            : ([60_000_000, 'min'] as const);
    const digits = Math.min(6, Math.max(0, Math.ceil(Math.log10(unit / Math.max(1, nearUs)))));
    const value = (us / unit).toLocaleString('en-US', {
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    });
    return us === 0 ? `0 ${name}` : `${value} ${name}`;
  };

  const tooltipStyle = () => ({
    backgroundColor: color('--raised'),
    borderColor: color('--line'),
    borderWidth: 1,
    padding: [8, 12],
    textStyle: { color: color('--ink'), fontSize: 13, fontFamily: 'inherit' },
    extraCssText:
      'box-shadow: 0 4px 16px rgb(0 0 0 / 0.16); border-radius: 8px; max-width: 420px; white-space: normal;',
    confine: true,
  });

  const timeAxis = () => ({
    type: 'value',
    min: 0,
    max: endUs,
    axisLine: { lineStyle: { color: color('--line') } },
    axisTick: { lineStyle: { color: color('--line') } },
    axisLabel: {
      color: color('--faint'),
      hideOverlap: true,
      showMaxLabel: false,
      formatter: (us: number) => timeText(us, view.us() / 8),
    },
    splitLine: { show: false },
  });

  const valueAxis = (more: object) => ({
    type: 'value',
    min: 0,
    axisLabel: { color: color('--faint'), formatter: (value: number) => grouped(Math.round(value)) },
    minInterval: 1,
    splitLine: { lineStyle: { color: color('--grid') } },
    splitNumber: 3,
    ...more,
  });

  /** Ctrl and the wheel (a pinch, on a trackpad) zoom; dragging moves. The page itself keeps the plain wheel. */
  const timeZoom = (more: object) => ({
    type: 'inside',
    xAxisIndex: 0,
    filterMode: 'none',
    zoomOnMouseWheel: 'ctrl',
    moveOnMouseMove: true,
    moveOnMouseWheel: false,
    preventDefaultMouseMove: false,
    minSpan: 0.01,
    ...more,
  });

  const legend = () => ({
    top: 0,
    left: GRID_LEFT - 4,
    itemWidth: 12,
    itemHeight: 12,
    itemGap: 18,
    icon: 'roundRect',
    textStyle: { color: color('--soft'), fontSize: 13, fontFamily: 'inherit' },
    inactiveColor: color('--line'),
  });

  const base = () => ({
    animation: false,
    textStyle: { fontFamily: 'inherit' },
    grid: { left: GRID_LEFT, right: GRID_RIGHT, top: 36, bottom: 28 },
    legend: legend(),
  });

  const pairs = (times: number[], values: number[]) => times.map((us, i) => [us, values[i]]);

  interface Curve {
    name: string;
    tone: string;
    times: number[];
    values: number[];
    unit?: string;
    stack?: boolean;
    dashed?: boolean;
    filled?: boolean;
    right?: boolean;
    smooth?: boolean;
  }

  const curve = (c: Curve) => ({
    type: 'line',
    name: c.name,
    data: pairs(c.times, c.values),
    step: c.smooth ? false : 'end',
    symbol: 'none',
    yAxisIndex: c.right ? 1 : 0,
    stack: c.stack ? 'all' : undefined,
    itemStyle: { color: color(c.tone) },
    lineStyle: { width: c.stack ? 0 : 1.8, color: color(c.tone), type: c.dashed ? [6, 4] : 'solid' },
    areaStyle: c.stack || c.filled ? { color: color(c.tone), opacity: c.stack ? 0.88 : 0.16 } : undefined,
    emphasis: { disabled: true },
  });

  const curvesTooltip = (curves: Curve[]) => ({
    ...tooltipStyle(),
    trigger: 'axis',
    axisPointer: { type: 'line', lineStyle: { color: color('--soft'), width: 1 } },
    formatter: (points: { seriesIndex: number; value: [number, number]; marker: string }[]) => {
      if (points.length === 0) return '';
      const rows = points.map(({ seriesIndex, value, marker }) => {
        const { name, unit } = curves[seriesIndex]!;
        return `<tr><td>${marker}${name}</td><td class="number">${grouped(value[1])}${unit ?? ''}</td></tr>`;
      });
      return `<b>${timeText(points[0]!.value[0], view.us() / 400)}</b><table class="tip">${rows.join('')}</table>`;
    },
  });

  const curvesOption = (curves: Curve[], yAxis: object[]) => ({
    ...base(),
    tooltip: curvesTooltip(curves),
    xAxis: timeAxis(),
    yAxis,
    dataZoom: [timeZoom({})],
    series: curves.map(curve),
  });

  const renderSegment = (params: RenderParams, api: RenderApi) => {
    const [x, y] = api.coord([api.value(2), api.value(0)]);
    const [right] = api.coord([api.value(3), api.value(0)]);
    const band = api.size([0, 1])[1];
    const height = Math.max(1, band * (band > 6 ? 0.72 : 0.92));
    const isThin = api.value(1) === 0;
    const drawn = isThin ? Math.max(1, height * 0.3) : height;
    const rect = { x, y: y - drawn / 2, width: Math.max(0.75, right - x), height: drawn };
    const shape = page.echarts.graphic.clipRectByRect(rect, params.coordSys);
    if (shape === undefined) return undefined;
    const radius = drawn < 4 ? 0 : 2;
    return {
      type: 'rect',
      transition: [],
      shape: { ...shape, r: radius },
      // Lines closer than pixels would add up to a wall: those that only wait are drawn fainter then.
      style: {
        fill: color(kindColors[api.value(1)]!),
        opacity: isThin ? Math.min(1, Math.max(0.06, band / 5)) : 1,
      },
      emphasis: { style: { stroke: color('--ink'), lineWidth: 1 } },
    };
  };

  const segmentTip = ({ value }: { value: [number, number, number, number, string] }) => {
    const [lane, kind, fromUs, toUs, words] = value;
    const { title, end } = lanes[lane]!;
    const near = spanUs / 2000;
    return (
      `<b>${escaped(title)}</b><br><span class="soft">${escaped(end)}</span><br>` +
      `<span class="dot" style="background:${color(kindColors[kind]!)}"></span>${kindNames[kind]}: ${escaped(words)}<br>` +
      `<span class="soft">${timeText(fromUs, near)} to ${timeText(toUs, near)}, ${durationText(toUs - fromUs)}</span>`
    );
  };
  const durationText = (us: number) =>
    us < 1000
      ? `${Math.round(us)} us`
      : us < 1_000_000
        ? `${(us / 1000).toFixed(1)} ms`
        : `${(us / 1_000_000).toFixed(2)} s`;

  const commandLines = () => ({
    symbol: 'none',
    silent: false,
    label: { show: false },
    emphasis: { label: { show: false }, lineStyle: { width: 2 } },
    lineStyle: { color: color('--ink'), type: [3, 3], width: 1, opacity: 0.55 },
    data: commands.map(([timeUs, texts]) => ({ xAxis: timeUs, name: texts.join('\n') })),
    tooltip: {
      formatter: ({ name, data: line }: { name: string; data: { xAxis: number } }) =>
        `<b>${timeText(line.xAxis, spanUs / 2000)}</b><br>${escaped(name).replaceAll('\n', '<br>')}`,
    },
  });

  const timelineHeight = Math.min(680, Math.max(240, 112 + lanes.length * 9));
  /** All lanes, where their labels can be 14 pixels apart; else first samples of requests that lie so far from each other. */
  const labelledBySpacing = new Map<number, Set<number>>();
  const isLabelled = (lane: number) => {
    const spacing = Math.ceil((14 * view.lanes()) / (timelineHeight - 112));
    if (spacing <= 1) return true;
    let labelled = labelledBySpacing.get(spacing);
    if (labelled === undefined) {
      labelled = new Set();
      let last = Number.NEGATIVE_INFINITY;
      for (const [index, { label }] of lanes.entries()) {
        if (index - last < spacing || /\.(?!0$)/.test(label)) continue;
        labelled.add(index);
        last = index;
      }
      labelledBySpacing.set(spacing, labelled);
    }
    return labelled.has(lane);
  };

  const timelineOption = () => {
    const isTall = lanes.length > 60;
    return {
      ...base(),
      grid: { left: GRID_LEFT, right: GRID_RIGHT, top: 36, bottom: 76 },
      tooltip: { ...tooltipStyle(), trigger: 'item', formatter: segmentTip },
      xAxis: timeAxis(),
      yAxis: {
        type: 'category',
        inverse: true,
        data: lanes.map(({ label }) => label),
        axisLine: { show: false },
        axisTick: { show: false },
        axisLabel: { color: color('--faint'), fontSize: 11, interval: isLabelled },
        splitLine: { show: false },
      },
      dataZoom: [
        timeZoom({ filterMode: 'weakFilter' }),
        {
          type: 'slider',
          xAxisIndex: 0,
          filterMode: 'weakFilter',
          bottom: 12,
          height: 26,
          left: GRID_LEFT,
          right: GRID_RIGHT,
          minSpan: 0.01,
          borderColor: color('--line'),
          backgroundColor: 'transparent',
          fillerColor: color('--filler'),
          handleStyle: { color: color('--raised'), borderColor: color('--soft') },
          moveHandleStyle: { color: color('--line') },
          dataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } },
          selectedDataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } },
          textStyle: { color: color('--faint'), fontSize: 11 },
          labelFormatter: (us: number) => timeText(us, spanUs / 400),
          brushSelect: false,
        },
        {
          type: 'inside',
          yAxisIndex: 0,
          filterMode: 'weakFilter',
          zoomOnMouseWheel: 'shift',
          moveOnMouseMove: true,
        },
        {
          type: 'slider',
          show: isTall,
          yAxisIndex: 0,
          filterMode: 'weakFilter',
          right: 14,
          width: 16,
          borderColor: color('--line'),
          backgroundColor: 'transparent',
          fillerColor: color('--filler'),
          handleStyle: { color: color('--raised'), borderColor: color('--soft') },
          moveHandleSize: 0,
          showDataShadow: false,
          showDetail: false,
          brushSelect: false,
        },
      ],
      legend: {
        ...legend(),
        data: kindNames.map((name, kind) => ({ name, itemStyle: { color: color(kindColors[kind]!) } })),
      },
      series: kindNames.map((name, kind) => ({
        type: 'custom',
        name,
        itemStyle: { color: color(kindColors[kind]!) },
        renderItem: renderSegment,
        progressive: 0,
        encode: { x: [2, 3], y: 0 },
        data: segments.filter((segment) => segment[1] === kind),
        markLine: kind === 2 && commands.length > 0 ? commandLines() : undefined,
      })),
    };
  };

  const halfOption = (name: string, tone: string, values: number[]) =>
    curvesOption([{ name, tone, times: steps.timeUs, values, stack: true }], [valueAxis({ splitNumber: 2 })]);
  const blocksOption = () =>
    curvesOption(
      [
        { name: 'held', tone: '--decode', times: steps.timeUs, values: steps.heldBlocks, stack: true },
        { name: 'cached', tone: '--cached', times: steps.timeUs, values: steps.cachedBlocks, stack: true },
        { name: 'free', tone: '--free', times: steps.timeUs, values: steps.freeBlocks, stack: true },
      ],
      [valueAxis({ max: data.numBlocks, interval: data.numBlocks / 4 })],
    );
  const throughputOption = () =>
    curvesOption(
      [
        {
          name: 'tokens/s',
          tone: '--rate',
          times: windows.timeUs,
          values: windows.tokensPerSecond,
          filled: true,
        },
        {
          ...{
            name: 'samples finished',
            tone: '--soft',
            times: windows.timeUs,
            values: windows.finishedShare,
          },
          ...{ unit: ' %', dashed: true, right: true, smooth: true },
        },
      ],
      [
        valueAxis({}),
        valueAxis({
          max: 100,
          interval: 25,
          splitLine: { show: false },
          axisLabel: { color: color('--faint'), formatter: '{value} %' },
        }),
      ],
    );

  const timelineAnew = () => {
    colors.clear();
    return timelineOption();
  };

  return {
    timeline: timelineAnew,
    running: () => halfOption('running', '--decode', steps.running),
    waiting: () => halfOption('waiting', '--queued', steps.waiting),
    decode_rows: () => halfOption('decode rows', '--decode', steps.decodeRows),
    prefill_rows: () => halfOption('prefill rows', '--prefill', steps.prefillRows),
    blocks: blocksOption,
    throughput: throughputOption,
  };
}
