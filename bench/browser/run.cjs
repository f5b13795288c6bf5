// Tokens per second in Chromium, beside wllama (llama.cpp), one thread each, the same GGUF file: run.cjs CHROMIUM MODEL.gguf WLLAMA, where
// WLLAMA is the folder of the npm package @wllama/wllama. Needs js/sherry.wasm, and playwright-core on NODE_PATH.

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [program, model, wllama] = process.argv.slice(2);
const js = path.join(__dirname, "../../js");
const ROUNDS = 3;
const TYPES = { ".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html" };

const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://x");
  if (pathname === "/") { response.writeHead(200, { "Content-Type": "text/html" }); return response.end("<!doctype html><title>x</title>"); }
  const file = pathname === "/model.gguf" ? model : pathname.startsWith("/sherry/") ? path.join(js, pathname.slice(8)) : path.join(wllama, pathname.replace("/wllama/", ""));
  if (!fs.existsSync(file)) { response.writeHead(404); return response.end(); }
  const size = fs.statSync(file).size;
  response.writeHead(200, { "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream", "Content-Length": size });
  return fs.createReadStream(file).pipe(response);
});

// A text of some 120 tokens.
const PROMPT = "The history of the sea is the history of those who crossed it. ".repeat(8) + "In the year";
const TOKENS = 64;

/// Both of these run in the page; they give milliseconds to load, to the first token, and tokens per second from then on.
const runs = {
  async sherry({ prompt, tokens }) {
    const { Sherry } = await import("/sherry/index.js");
    const begun = performance.now();
    const one = await Sherry.load("/model.gguf", { cache: "none", context: 1024 });
    const loaded = performance.now();
    let last;
    for await (const piece of one.generate(prompt, { maxTokens: tokens, temperature: 0 })) last = piece;
    await one.close();
    return { load: loaded - begun, first: last.timings.prompt_ms, rate: last.timings.predicted_per_second, prompt: last.usage.prompt_tokens, memory: last.timings.memory };
  },
  async wllama({ prompt, tokens }) {
    const { Wllama } = await import("/wllama/esm/index.js");
    const quiet = { debug() {}, log() {}, warn() {}, error() {} };
    const one = new Wllama({ default: "/wllama/esm/wasm/wllama.wasm" }, { logger: quiet });
    const begun = performance.now();
    const blob = await (await fetch("/model.gguf")).blob();
    await one.loadModel([blob], { n_ctx: 1024, n_threads: 1, n_gpu_layers: 0 });
    const loaded = performance.now();
    const start = performance.now();
    let first = 0;
    let count = 0;
    let end = 0;
    let usage = null;
    for await (const chunk of await one.createCompletion({ prompt, max_tokens: tokens, temperature: 0, stream: true })) {
      end = performance.now();
      usage = chunk.usage ?? usage;
      if (chunk.choices?.[0]?.text) { if (!count++) first = end; }
    }
    await one.exit();
    return { load: loaded - begun, first: first - start, rate: (1000 * (count - 1)) / (end - first), prompt: usage?.prompt_tokens, tokens: count };
  },
};

(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
  const found = {};
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, run] of Object.entries(runs)) {
      const page = await (await browser.newContext()).newPage();
      page.setDefaultTimeout(120_000);
      await page.goto(`http://127.0.0.1:${server.address().port}/`);
      const result = await page.evaluate(run, { prompt: PROMPT, tokens: TOKENS });
      console.log(name, JSON.stringify(result, (_, value) => (typeof value === "number" ? Math.round(value * 10) / 10 : value)));
      (found[name] ??= []).push(result);
      await page.context().close();
    }
  }
  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  for (const [name, all] of Object.entries(found)) {
    const of = (field) => median(all.map((one) => one[field]));
    console.log(`${name}: load ${of("load").toFixed(0)} ms, first token ${of("first").toFixed(0)} ms, ${of("rate").toFixed(1)} tokens a second`);
  }
  await browser.close();
  server.close();
})().catch((error) => { console.error(error); process.exit(1); });
