// The page in headless Firefox, which the page's own test does not know: firefox.cjs FIREFOX FOLDER. What other browsers may do differently:
// workers that are modules, the private file system, memory that workers share. Prints "ok NAME" for each part.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const puppeteer = require("puppeteer-core");

const [program, folder] = process.argv.slice(2);
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".wasm": "application/wasm" };

/// The page at `/open/`, and isolated at `/isolated/`.
const server = http.createServer((request, response) => {
  const [, kind, name] = /^\/(open|isolated)\/(.*)$/.exec(new URL(request.url, "http://x").pathname) ?? [];
  const file = path.join(folder, name || "index.html");
  if (!kind || !fs.existsSync(file)) { response.writeHead(404); return response.end(); }
  const isolated = kind === "isolated" && { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
  response.writeHead(200, { "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream", ...isolated });
  response.end(fs.readFileSync(file));
});

/// In the page: what the package says.
async function use() {
  const { Sherry } = await import("./sherry/index.js");
  const model = await Sherry.load("sherry-tiny.gguf", { threads: 2 });
  let text = "";
  for await (const piece of model.generate("Once upon a time", { temperature: 0, maxTokens: 40 })) text += piece.text;
  const control = new AbortController();
  let aborted = null;
  try { for await (const _ of model.generate("Once", { signal: control.signal })) control.abort(); } catch (error) { aborted = error.name; }
  const { threads } = model.info;
  await model.close();
  return { text, threads, aborted, cached: (await Sherry.cached()).map(({ size }) => size) };
}

(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = await puppeteer.launch({ browser: "firefox", executablePath: program, headless: true });
  const strange = [];
  const texts = [];
  try {
    for (const kind of ["open", "isolated"]) {
      const page = await browser.newPage();
      page.setDefaultTimeout(60_000);
      page.on("pageerror", (error) => strange.push(String(error)));
      await page.goto(`http://127.0.0.1:${server.address().port}/${kind}/`);
      await page.waitForSelector("#send:not([disabled]):not([hidden])");
      assert.match(await page.$eval("#model", (element) => element.textContent), /sherry-tiny/);
      await page.type("#input", "Tell me about the sea.");
      await page.keyboard.press("Enter");
      await page.waitForSelector("article.assistant .numbers");
      assert.ok((await page.$eval("article.assistant .body", (element) => element.textContent)).length > 10);
      console.log(`ok ${kind}: the page answers`);
      const { text, threads, aborted, cached } = await page.evaluate(use);
      const several = fs.existsSync(path.join(folder, "sherry/sherry-threads.wasm"));
      assert.deepEqual([threads, aborted], [kind === "isolated" && several ? 2 : 1, "AbortError"]);
      assert.ok(text.length > 50 && cached.includes(fs.statSync(path.join(folder, "sherry-tiny.gguf")).size));
      texts.push(text);
      console.log(`ok ${kind}: it streams, stops and keeps what it loads; threads: ${threads}`);
      await page.close();
    }
    assert.equal(texts[0], texts[1]);
    assert.deepEqual(strange, []);
    console.log(`ok ${await browser.version()}`);
  } finally { await browser.close(); server.close(); server.closeAllConnections(); }
})().catch((error) => { console.error(error); process.exit(1); });
