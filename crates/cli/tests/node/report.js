// Pages of `sherry report` in headless Chromium. node report.js CHROMIUM PICTURES PAGE...: the program, a folder for
// screenshots, and files. Prints "ok NAME" for each part and page.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [program, pictures, ...files] = process.argv.slice(2);
const LOOKS = [320, 1280].flatMap((width) => ["light", "dark"].map((colorScheme) => ({ width, colorScheme })));

let browser;
const strange = []; // requests for anything but the page, and errors

async function open(file, { width = 1280, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  page.on("request", (request) => { if (request.url() !== `file://${encodeURI(file)}` && !request.url().startsWith("data:")) strange.push(request.url()); });
  page.on("pageerror", (error) => strange.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") strange.push(message.text()); });
  await page.goto(`file://${encodeURI(file)}`);
  return page;
}

const parts = {
  async "nothing is cut or wider than the window"(file) {
    for (const look of LOOKS) {
      const page = await open(file, look);
      const name = `${path.basename(file, ".html")}-${look.colorScheme}-${look.width}`;
      await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
      for (const open of [false, true]) {
        await page.evaluate((open) => document.querySelectorAll("details").forEach((one) => { one.open = open; }), open);
        const wide = await page.evaluate(() => {
          if (document.documentElement.scrollWidth <= innerWidth) return [];
          const out = [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > innerWidth && !one.closest("table"));
          return out.map((one) => one.outerHTML.slice(0, 200));
        });
        assert.deepEqual(wide, [], `${name}: wider than the window`);
      }
      const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).every((part) => part < 60));
      assert.equal(dark, look.colorScheme === "dark");
      await page.context().close();
    }
  },

  async "labels of ticks differ, overlap nothing and lie inside their figure"(file) {
    for (const look of LOOKS) {
      const page = await open(file, look);
      const problems = await page.evaluate(() => {
        const problems = [];
        for (const figure of document.querySelectorAll("figure")) {
          const title = figure.querySelector("h3").textContent;
          const outer = figure.getBoundingClientRect();
          for (const kind of ["up", "along"]) {
            const labels = [...figure.querySelectorAll(`.${kind}`)].filter((label) => label.offsetParent);
            const texts = labels.map((label) => label.textContent);
            if (new Set(texts).size !== texts.length) problems.push(`${title}: ${texts}`);
            const boxes = labels.map((label) => label.getBoundingClientRect());
            boxes.forEach((box, index) => {
              const isInside = box.left >= outer.left && box.right <= outer.right && box.top >= outer.top && box.bottom <= outer.bottom;
              if (!isInside || box.width === 0) problems.push(`${title}: ${texts[index]} is cut`);
              for (const other of boxes.slice(0, index)) {
                if (box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom) problems.push(`${title}: ${texts[index]} covers another`);
              }
            });
          }
          if (figure.querySelector(".plot") && figure.querySelectorAll(".up").length < 2) problems.push(`${title}: no axis`);
        }
        return problems;
      });
      assert.deepEqual(problems, [], JSON.stringify(look));
      await page.context().close();
    }
  },

  async "values are under the pointer, and under a cursor that keys move"(file) {
    for (const width of [320, 1280]) {
      const page = await open(file, { width });
      for (const plot of await page.locator(".plot").all()) {
        await plot.scrollIntoViewIfNeeded();
        const data = JSON.parse(await plot.evaluate((one) => one.parentElement.querySelector("script").textContent));
        const box = await plot.boundingBox();
        // The last point may lie on the very edge.
        const at = (x, y) => page.mouse.move(box.x + (Math.max(0.5, Math.min(99.5, x)) / 100) * box.width, box.y + (y / 100) * box.height);
        if (data.series) {
          const one = data.series[0];
          const point = one.points[Math.floor(one.points.length / 2)];
          await at(point[3], 50);
          const said = await page.textContent("#tip");
          assert.ok(said.includes(`${data.over} `) && said.includes(one.name), said);
          const value = Number(said.split(`${one.name}: `)[1].match(/^-?[\d.,]+(e[-+]\d+)?/)[0].replaceAll(",", ""));
          const nearby = one.points.filter((other) => Math.abs(other[3] - point[3]) < 1.5).map((other) => other[2]);
          assert.ok(nearby.some((y) => Math.abs(value - y) <= 1e-3 * Math.abs(y) + 0.5 * (Math.abs(y) >= 1e4)), `${said}: ${nearby}`);
        } else {
          await at(50, 50);
          assert.match(await page.textContent("#tip"), /step .*% of the weights/);
        }
        const tip = await page.locator("#tip").boundingBox();
        assert.ok(tip.x >= 0 && tip.x + tip.width <= width && tip.y >= 0, "inside the window");
        await page.mouse.move(1, 1);
        assert.ok(!await page.isVisible("#tip"));
      }
      const plot = page.locator(".plot").first();
      if (await plot.count()) {
        await plot.focus();
        await page.keyboard.press("ArrowRight");
        const first = await page.textContent("#tip");
        assert.match(first, /step|block/);
        await page.keyboard.press("ArrowLeft");
        await page.keyboard.press("Escape");
        assert.ok(!await page.isVisible("#tip"));
      }
      if (width === 1280) {
        const plots = page.locator(".plot");
        if (await plots.count()) { await plots.first().hover(); await page.screenshot({ path: `${pictures}/${path.basename(file, ".html")}-pointer.png` }); }
      }
      await page.context().close();
    }
  },

  async "everybody can read it"(file) {
    for (const look of LOOKS) {
      const page = await open(file, look);
      await page.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), [], JSON.stringify(look));
      await page.context().close();
    }
  },

  async "it is whole without scripts, and on paper"(file) {
    const page = await open(file, { javaScriptEnabled: false, colorScheme: "dark" });
    for (const plot of await page.locator(".plot").all()) assert.ok(await plot.locator("path.curve, rect").count());
    await page.context().close();
    const paper = await open(file, { colorScheme: "dark" });
    await paper.emulateMedia({ media: "print", colorScheme: "dark" });
    assert.equal(await paper.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(255, 255, 255)");
    const printed = await paper.pdf({ format: "A4", printBackground: true });
    assert.ok(printed.length > 5000);
    fs.writeFileSync(`${pictures}/${path.basename(file, ".html")}.pdf`, printed);
    await paper.context().close();
  },
};

(async () => {
  browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
  for (const file of files) {
    for (const [name, part] of Object.entries(parts)) {
      const where = `"${name}" of ${path.basename(file)}`;
      try { await part(file); } catch (error) { console.error(`in ${where}`); throw error; }
      assert.deepEqual(strange, [], `requests to others, or errors, in ${where}`);
      console.log(`ok ${where}`);
    }
  }
  await browser.close();
})().catch((error) => { console.error(error.stack); process.exit(1); });
