// The report's script, which runs in the browser: its text is put into the page. So `drawReport` uses nothing of this module but what stands
// within it, and what it is given.

import type { ReportData } from './report_data.js';
import type { reportOptions as optionsFunction } from './report_options.js';
import type { Chart, Page, Wheel } from './report_page.js';

type ReportOptions = typeof optionsFunction;

/** @param reportOptions the function of that name (report_options.ts) */
export function drawReport(data: ReportData, page: Page, reportOptions: ReportOptions): void {
  const charts: { name: string; chart: Chart }[] = [];
  const rangeOf = (chart: Chart, zoom: number) => {
    const [start, end] = chart.getModel().getComponent('dataZoom', zoom).getPercentRange();
    return { start, end };
  };
  /** The share of the timeline's axis of this zoom that is in view. */
  const shareInView = (zoom: number) => {
    if (charts.length === 0) return 1;
    const { start, end } = rangeOf(charts[0]!.chart, zoom);
    return (end - start) / 100;
  };
  const options = reportOptions(data, page, {
    us: () => data.endUs * shareInView(0),
    lanes: () => data.lanes.length * shareInView(2),
  });

  page.document.getElementById('timeline').style.height =
    `${Math.min(680, Math.max(240, 112 + data.lanes.length * 9))}px`;
  for (const name of Object.keys(options)) {
    const element = page.document.getElementById(name);
    // The library takes every wheel for itself, used or not: the plain one is the page's, to scroll.
    const spare = (event: Wheel) => {
      if (!event.ctrlKey && !event.shiftKey) event.stopPropagation();
    };
    element.addEventListener('wheel', spare, true);
    element.addEventListener('mousewheel', spare, true);
    const chart = page.echarts.init(element, null, { renderer: 'canvas' });
    chart.setOption(options[name]!());
    charts.push({ name, chart });
  }
  page.kadenzCharts = Object.fromEntries(charts.map(({ name, chart }) => [name, chart]));

  /** All charts show the same time: whichever was zoomed tells the others, once a frame. */
  let wanted: { start: number; end: number; from: Chart | null } | null = null;
  let shown = { start: 0, end: 100 };
  let isSyncing = false;
  const applyZoom = () => {
    const { start, end, from } = wanted!;
    wanted = null;
    shown = { start, end };
    isSyncing = true;
    for (const { chart } of charts)
      if (chart !== from) chart.dispatchAction({ type: 'dataZoom', dataZoomIndex: 0, start, end });
    isSyncing = false;
  };
  const zoomAll = (start: number, end: number, from: Chart | null) => {
    if (isSyncing) return;
    if (wanted === null) page.requestAnimationFrame(applyZoom);
    wanted = { start, end, from };
  };
  for (const { chart } of charts) {
    chart.on('datazoom', () => {
      const { start, end } = rangeOf(chart, 0);
      if (start === shown.start && end === shown.end) return;
      zoomAll(start, end, chart);
    });
  }
  page.document.getElementById('reset').addEventListener('click', () => {
    charts[0]!.chart.dispatchAction({ type: 'dataZoom', dataZoomIndex: 2, start: 0, end: 100 });
    zoomAll(0, 100, null);
  });
  page.addEventListener('resize', () => {
    for (const { chart } of charts) chart.resize();
  });
  page.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    for (const { name, chart } of charts) {
      const { start, end } = rangeOf(chart, 0);
      chart.setOption(options[name]!(), { notMerge: true });
      chart.dispatchAction({ type: 'dataZoom', dataZoomIndex: 0, start, end });
    }
  });
}
