// The page in headless Chromium: page.cjs CHROMIUM FOLDER PICTURES [MODEL]: the program, the page's folder, one for screenshots, and the
// folder of SmolLM2-135M at 1.25 bits. Prints "ok NAME" for each part.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [program, folder, pictures, large] = process.argv.slice(2);
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".wasm": "application/wasm" };
const TINY = fs.readFileSync(path.join(folder, "sherry-tiny.gguf"));

let served = 0; // requests for models
let broken = 0; // bytes after which a model breaks off
const ranges = [];

/// The page under a path of its own, models beside it.
const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://x");
  // The same page under a second path, isolated.
  if (url.pathname.startsWith("/isolated/")) {
    for (const [name, value] of [["Opener", "same-origin"], ["Embedder", "require-corp"]]) response.setHeader(`Cross-Origin-${name}-Policy`, value);
    url.pathname = url.pathname.replace("/isolated/", "/some/");
  }
  if (url.pathname.startsWith("/models/")) {
    served++;
    const name = url.pathname.slice(8);
    const file = name.startsWith("large/") && large ? path.join(large, name.slice(6)) : null;
    if (file && !fs.existsSync(file)) { response.writeHead(404); return response.end(); }
    const bytes = file ? fs.readFileSync(file) : TINY;
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? "");
    if (range) ranges.push(request.headers.range);
    const start = range && request.headers["if-range"] === '"one"' ? Number(range[1]) : 0;
    const head = { ETag: '"one"', "Content-Length": bytes.length - start, "Content-Type": "application/octet-stream" };
    if (start) head["Content-Range"] = `bytes ${start}-${bytes.length - 1}/${bytes.length}`;
    response.writeHead(start ? 206 : 200, head);
    if (!broken || file) return response.end(bytes.subarray(start));
    return response.write(bytes.subarray(start, start + broken), () => setTimeout(() => response.destroy(), 100));
  }
  const file = path.join(folder, url.pathname.replace(/^\/some\/path\//, "").replace(/^$/, "index.html"));
  if (!url.pathname.startsWith("/some/path/") || !fs.existsSync(file)) { response.writeHead(404); return response.end(); }
  response.writeHead(200, { "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream" });
  response.end(fs.readFileSync(file));
});

const sockets = new Set();
server.on("connection", (socket) => { sockets.add(socket); socket.on("close", () => sockets.delete(socket)); });
const stop = () => new Promise((resolve) => { server.close(resolve); for (const socket of sockets) socket.destroy(); });

(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const port = server.address().port;
  const origin = `http://127.0.0.1:${port}`;
  const address = `${origin}/some/path/`;
  const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
  const strange = [];
  const watch = (page) => {
    page.setDefaultTimeout(60_000);
    page.on("pageerror", (error) => strange.push(String(error)));
    page.on("console", (message) => { if (message.type() === "error" && !/Failed to load resource|net::ERR/.test(message.text())) strange.push(message.text()); });
    return page;
  };
  const ready = (page) => page.waitForSelector("#send:not([disabled]):not([hidden])");
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = watch(await context.newPage());
  const say = async (words) => { await page.fill("#input", words); await page.press("#input", "Enter"); };
  const title = () => page.textContent("#model");
  const settings = async () => { await page.click("#settings-button"); await page.waitForSelector("#settings[open]"); };
  const choose = async (url) => { await settings(); await page.fill("#model-url", url); await page.click("#model-form button[type=submit]"); };

  const parts = {
    async "it loads and says what it talks to"() {
      await page.goto(address);
      await ready(page);
      assert.match(await title(), /sherry-tiny · 3\.7 million parameters · 2\.0\d bits per weight/);
      assert.equal(served, 0);
    },
    async "it answers, with numbers"() {
      await say("Tell me about the sea.");
      await page.waitForSelector("article.assistant .numbers");
      assert.ok((await page.textContent("article.assistant .body")).length > 10);
      assert.match(await page.textContent(".numbers summary"), /tokens\/s/);
    },
    async "Stop stops"() {
      await page.click("#new");
      await settings();
      await page.fill("#seed", "5");
      await page.dispatchEvent("#seed", "change");
      await page.click("#settings-close");
      await page.evaluate(() => {
        // As soon as there is some text.
        new MutationObserver((_, observer) => { if (document.querySelector("article.assistant .body")?.textContent.length > 3) { observer.disconnect(); document.querySelector("#stop").click(); } })
          .observe(document.querySelector("#messages"), { childList: true, subtree: true, characterData: true });
      });
      await say("Write a long story about a king and his three daughters.");
      await ready(page);
      assert.equal(await page.textContent("article.assistant .note"), "Stopped");
    },
    async "the prompt of a long conversation is refused with a way out"() {
      await page.click("#new");
      await say("word ".repeat(700));
      await page.waitForSelector(".problem");
      assert.match(await page.textContent(".problem"), /longer than the model can read .*512/);
    },
    async "a file that is no model is refused, and the small one is back"() {
      await settings();
      await page.setInputFiles("#model-file", { name: "x.gguf", mimeType: "application/octet-stream", buffer: Buffer.from("nothing") });
      await page.waitForFunction(() => /not a GGUF file.*small model is back/.test(document.querySelector("#model-problem").textContent));
      await page.click("#settings-close");
      await ready(page);
      assert.match(await title(), /sherry-tiny/);
    },
    async "a file of this device"() {
      await settings();
      await page.setInputFiles("#model-file", { name: "mine.gguf", mimeType: "application/octet-stream", buffer: TINY });
      await page.waitForFunction(() => /mine\.gguf/.test(document.querySelector("#model").textContent));
    },
    async "a dropped file"() {
      const transfer = await page.evaluateHandle(async (url) => {
        const data = new DataTransfer();
        data.items.add(new File([await (await fetch(url)).arrayBuffer()], "dropped.gguf"));
        return data;
      }, `${address}sherry-tiny.gguf`);
      await page.dispatchEvent("#messages", "drop", { dataTransfer: transfer });
      await page.waitForFunction(() => /dropped\.gguf/.test(document.querySelector("#model").textContent));
    },
    async "a download that breaks off goes on where it ended"() {
      broken = 600_000;
      await choose(`${origin}/models/remote.gguf`);
      await page.waitForFunction(() => /small model is back/.test(document.querySelector("#model-problem").textContent));
      assert.match(await page.textContent("#model-problem"), /broke off|ended after/);
      broken = 0;
      await page.click("#model-form button[type=submit]");
      await page.waitForFunction(() => /remote\.gguf/.test(document.querySelector("#model").textContent));
      assert.equal(ranges.length, 1);
      assert.ok(Number(/\d+/.exec(ranges[0])[0]) > 0);
      await settings();
      assert.match(await page.textContent("#cached"), /remote\.gguf · 1 MB/);
      await page.click("#settings-close");
      await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
    },
    ...(large && {
      async "a model of 1.25 bits from a folder"() {
        const before = served;
        await choose(`${origin}/models/large/`);
        await page.waitForFunction(() => /large/.test(document.querySelector("#model").textContent), null, { timeout: 180_000 });
        assert.ok(served > before);
        await page.click("#new");
        await settings();
        for (const [name, value] of [["max_tokens", "24"], ["temperature", "0"]]) { await page.fill(`#${name}`, value); await page.dispatchEvent(`#${name}`, "change"); }
        await page.click("#settings-close");
        await say("What is the capital of France?");
        await page.waitForSelector("article.assistant .numbers", { timeout: 120_000 });
        assert.match(await title(), /134\.5 million parameters · 2\.8\d bits per weight/);
        console.log(`large: ${await title()}: ${(await page.textContent("article.assistant .body")).slice(0, 200)} (${await page.textContent(".numbers summary")})`);
        await settings();
        console.log(await page.textContent("#memory"));
        assert.equal(await page.locator("#cached li").count(), 2, "the files of a folder are one model");
        assert.match(await page.textContent("#cached"), /large · /);
        await page.click("#settings-close");
        await choose(`${origin}/models/remote.gguf`);
        await page.waitForFunction(() => /remote\.gguf/.test(document.querySelector("#model").textContent));
      },
    }),
    async "pictures, and everybody can use it"() {
      await page.click("#new");
      await say("Hello");
      await page.waitForSelector("article.assistant .numbers");
      for (const theme of ["light", "dark"]) {
        for (const [width, height] of [[1280, 800], [320, 640]]) {
          await page.emulateMedia({ colorScheme: theme, reducedMotion: "reduce" });
          await page.setViewportSize({ width, height });
          await page.screenshot({ path: `${pictures}/chat-${theme}-${width}.png` });
          assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than the window");
          await settings();
          await page.screenshot({ path: `${pictures}/settings-${theme}-${width}.png` });
          await page.evaluate(axe);
          const { violations } = await page.evaluate(() => axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }));
          assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(" ")}`), []);
          await page.click("#settings-close");
        }
      }
      await page.setViewportSize({ width: 1280, height: 800 });
    },
    async "several threads where the page is isolated, one elsewhere; the same text"() {
      const answer = (place) => place.evaluate(async () => {
        const { Sherry } = await import("./sherry/index.js");
        const model = await Sherry.load("sherry-tiny.gguf", { threads: 2, cache: "none" });
        let text = "";
        for await (const piece of model.generate("Once upon a time", { temperature: 0, maxTokens: 200 })) text += piece.text;
        const { threads } = model.info;
        await model.close();
        return { text, threads, isolated: crossOriginIsolated };
      });
      const one = await answer(page);
      assert.deepEqual([one.threads, one.isolated, one.text.length > 100], [1, false, true]);
      const second = watch(await context.newPage());
      await second.goto(`${origin}/isolated/path/`);
      await ready(second);
      const several = fs.existsSync(path.join(folder, "sherry/sherry-threads.wasm"));
      assert.deepEqual(await answer(second), { text: one.text, threads: several ? 2 : 1, isolated: true });
      await second.close();
    },
    async "with the server gone it comes back, and so does the model"() {
      await stop();
      await page.reload();
      await ready(page);
      await page.waitForFunction(() => /remote\.gguf/.test(document.querySelector("#model").textContent));
      await page.click("#new");
      await say("Hello again");
      await page.waitForSelector("article.assistant .numbers");
    },
    async "a model that is forgotten is gone"() {
      await settings();
      await page.click('#cached button[title="Forget remote.gguf"]');
      await page.waitForFunction(() => !/remote/.test(document.querySelector("#cached").textContent));
      await page.reload();
      await page.waitForFunction(() => /small model is back/.test(document.querySelector("#model-problem").textContent));
      assert.match(await title(), /sherry-tiny/);
    },
    async "nothing strange happened"() { assert.deepEqual(strange, []); },
  };
  try {
    for (const [name, part] of Object.entries(parts)) {
      try { await part(); } catch (error) { await page.screenshot({ path: `${pictures}/failed.png` }); error.message = `${name}: ${error.message}\n${strange.join("\n")}`; throw error; }
      console.log(`ok ${name}`);
    }
  } finally { await browser.close(); await stop(); }
})().catch((error) => { console.error(error); process.exit(1); });
