// Looking at a trace: in words, in Perfetto, as a page.

export { perfettoEvents, perfettoJson } from './perfetto.js';
export { reportPage } from './report.js';
export { requestsOf, requestText } from './show_request.js';
export { describeStep, stepText } from './show_step.js';
export { summaryText } from './show_summary.js';
export { type Summary, summaryOf } from './summary.js';
export { plain, snakeCased } from './text.js';
