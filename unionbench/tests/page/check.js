// Opens a report in headless Chromium at two widths and two themes and prints
// what a reader would stumble over, as JSON. Arguments: Chromium, the page, the
// folder of puppeteer-core and axe-core.
const path = require('path');
const [chromium, page, modules] = process.argv.slice(2);
const puppeteer = require(path.join(modules, 'puppeteer-core'));
const axe = path.join(modules, 'axe-core/axe.min.js');

(async () => {
  const browser = await puppeteer.launch({
    executablePath: chromium,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
  const found = [];
  for (const width of [1280, 400]) {
    for (const scheme of ['light', 'dark']) {
      const tab = await browser.newPage();
      const spoken = [];
      const asked = [];
      tab.on('console', (message) => {
        if (['error', 'warn', 'warning'].includes(message.type())) spoken.push(message.text());
      });
      tab.on('pageerror', (error) => spoken.push(String(error)));
      tab.on('request', (request) => {
        if (!request.url().startsWith('file:') && !request.url().startsWith('data:')) asked.push(request.url());
      });
      await tab.setViewport({ width, height: 900 });
      await tab.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
      await tab.goto('file://' + page);
      const layout = await tab.evaluate(() => ({
        scrolls: document.documentElement.scrollWidth > document.documentElement.clientWidth,
        background: getComputedStyle(document.body).backgroundColor,
        figures: [...document.querySelectorAll('figure > svg')].map((svg) => {
          const box = svg.getBoundingClientRect();
          return box.width > 50 && box.height > 20 && svg.querySelectorAll('polyline, rect').length > 0;
        }),
        // Letters that are drawn smaller than nine pixels are not read.
        smallest: Math.min(...[...document.querySelectorAll('figure > svg')].map((svg) =>
          12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)),
      }));
      await tab.evaluate(() => document.querySelectorAll('details').forEach((d) => { d.open = true; }));
      const opened = await tab.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
      await tab.addScriptTag({ path: axe });
      const checked = await tab.evaluate(() => window.axe.run());
      const violations = checked.violations
        .filter((v) => ['serious', 'critical'].includes(v.impact))
        .map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.target.join(' ')).join('; ')}`);
      found.push({ width, scheme, ...layout, opened, spoken, asked, violations, passes: checked.passes.length });
      await tab.close();
    }
  }
  await browser.close();
  console.log(JSON.stringify(found));
})().catch((error) => { console.error(error); process.exit(1); });
