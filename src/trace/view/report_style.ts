// The report's style sheet. Colours of the charts are of the palette by Okabe and Ito, which colour-blind readers can tell apart; the script
// reads them from here, so that light and dark have one source.

export const REPORT_STYLE = `
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --raised: #ffffff; --ink: #17202b; --soft: #4a5768; --faint: #6c7889;
  --line: #d5dae1; --grid: #e9ecf0; --filler: rgb(0 114 178 / 0.10); --warn: #fff4dc; --warn-line: #e0b04a;
  --queued: #b3bcc8; --prefill: #e69f00; --decode: #0072b2; --preempted: #cc5a9b;
  --cached: #56b4e9; --free: #dfe4ea; --rate: #009e73;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151c; --raised: #18202a; --ink: #e8edf3; --soft: #b3bfcd; --faint: #8b98a8;
    --line: #35404d; --grid: #242e39; --filler: rgb(86 180 233 / 0.14); --warn: #33290f; --warn-line: #8a6a1f;
    --queued: #5d6978; --prefill: #f0ad1f; --decode: #3b9ddb; --preempted: #e07fb8;
    --cached: #8fd0f5; --free: #2b3643; --rate: #1fc296;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 56px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0; }
p { margin: 0; }
.about { color: var(--soft); margin-top: 6px; overflow-wrap: anywhere; }
.about code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.warning {
  margin-top: 18px; padding: 10px 14px; border: 1px solid var(--warn-line); border-radius: 8px; background: var(--warn);
}
.facts {
  display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 24px 0 0; padding: 0;
}
.facts div, figure, .table {
  background: var(--raised); border: 1px solid var(--line); border-radius: 10px;
}
.facts div { padding: 12px 16px 13px; display: flex; flex-direction: column; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; }
.facts .value { font-size: 24px; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }
.facts .note { color: var(--soft); font-size: 13px; line-height: 1.4; }
.bar {
  position: sticky; top: 0; z-index: 2; display: flex; gap: 16px; align-items: center; justify-content: space-between;
  padding: 14px 0 10px; margin-top: 14px; background: var(--page); color: var(--soft); font-size: 13px;
}
kbd {
  font: 12px/1 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; padding: 2px 5px; border-radius: 4px;
  border: 1px solid var(--line); border-bottom-width: 2px; background: var(--raised); color: var(--ink);
}
button {
  font: inherit; font-size: 13px; color: var(--ink); background: var(--raised); border: 1px solid var(--line);
  border-radius: 7px; padding: 5px 12px; cursor: pointer; white-space: nowrap;
}
button:hover { border-color: var(--soft); }
button:focus-visible { outline: 2px solid var(--decode); outline-offset: 2px; }
figure { margin: 0 0 16px; padding: 16px 8px 8px; }
figcaption { padding: 0 16px 8px; color: var(--soft); font-size: 13px; }
figcaption h2 { color: var(--ink); }
.chart { width: 100%; height: 220px; }
.half { height: 150px; }
.table { padding: 16px 24px 12px; overflow-x: auto; }
.table p { color: var(--soft); font-size: 13px; margin-bottom: 8px; }
table { border-collapse: collapse; width: 100%; }
.table th { text-align: left; color: var(--soft); font-size: 13px; font-weight: 500; }
.table th, .table td { padding: 6px 16px 6px 0; border-top: 1px solid var(--grid); white-space: nowrap; }
.table thead th { border-top: 0; }
.table .number { text-align: right; }
.tip td { padding: 1px 0; }
.tip .number { text-align: right; padding-left: 20px; font-weight: 600; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.soft { color: var(--soft); }
footer { margin-top: 20px; color: var(--faint); font-size: 13px; }
footer ul { margin: 0; padding-left: 18px; }
@media (max-width: 900px) { .facts { grid-template-columns: 1fr 1fr; } }
@media (max-width: 640px) {
  main { padding: 20px 12px 40px; }
  .facts .value { font-size: 20px; }
}
@media print { .bar { display: none; } figure { break-inside: avoid; } }
`;
