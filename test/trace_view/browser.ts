// A real browser for the tests of pages: headless Chromium, from CHROMIUM_PATH or where Debian puts it.
import { existsSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';

export function launchBrowser(): Promise<Browser> {
  const executablePath = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';
  if (!existsSync(executablePath)) {
    throw new Error(
      `These tests open pages in a real browser, and there is none at ${executablePath}. Install Debian's package chromium, ` +
        'or set CHROMIUM_PATH to a Chromium or Chrome.',
    );
  }
  return chromium.launch({ executablePath, args: ['--no-sandbox'] });
}

export interface OpenPage {
  page: Page;
  /** What the page complained of. */
  complaints: string[];
  /** What it asked for, beside itself. */
  requests: string[];
}

/** Opens a file with the network off. */
export async function openFile(
  browser: Browser,
  path: string,
  { colorScheme = 'light' }: { colorScheme?: 'light' | 'dark' } = {},
): Promise<OpenPage> {
  const context = await browser.newContext({
    offline: true,
    colorScheme,
    viewport: { width: 1280, height: 900 },
  });
  const page = await context.newPage();
  const complaints: string[] = [];
  const requests: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('request', (request) => {
    if (request.url() !== `file://${path}`) requests.push(request.url());
  });
  await page.goto(`file://${path}`);
  return { page, complaints, requests };
}

/** As a reader sees it: what is hidden is not there. */
export function visibleText(page: Page, selector: string): Promise<string> {
  return page.evaluate(`document.querySelector(${JSON.stringify(selector)}).innerText`) as Promise<string>;
}
