// Turns what a command printed into a picture of a terminal: node scripts/terminal_picture.mjs "npm run demo" < output > picture.svg
// Carriage returns and colours of a recording (`script -qc`) are resolved as a terminal would: the last writing of a line stays.
import { readFileSync } from 'node:fs';

const COLUMNS = 88;
const ROW_HEIGHT = 18;
const command = process.argv[2] ?? '';
const esc = String.fromCharCode(27);
const toFirstColumn = new RegExp(`${esc}\\[[01]?G`, 'g');
const escapes = new RegExp(`${esc}\\[[0-9;?]*[a-zA-Z]|${esc}[78]`, 'g');
const escapeXml = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

const rows = readFileSync(0, 'utf8')
  .split('\n')
  .map(
    (line) => line.replace(toFirstColumn, '\r').replace(escapes, '').split('\r').filter(Boolean).at(-1) ?? '',
  )
  .map((line) => line.trimEnd().slice(0, COLUMNS));
while (rows.at(-1) === '') rows.pop();
while (rows[0] === '') rows.shift();
rows.unshift(`$ ${command}`, '');

const height = rows.length * ROW_HEIGHT + 32;
const width = COLUMNS * 8.4 + 32;
const text = rows.map(
  (row, index) =>
    `<text x="16" y="${28 + index * ROW_HEIGHT}" fill="${index === 0 ? '#8bd5ca' : '#cad3f5'}">${escapeXml(row)}</text>`,
);
process.stdout.write(
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">\n` +
    `<title>${escapeXml(command)}</title>\n` +
    `<rect width="100%" height="100%" rx="8" fill="#24273a"/>\n` +
    `<g font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="14" xml:space="preserve" style="white-space:pre">\n` +
    `${text.join('\n')}\n</g>\n</svg>\n`,
);
