// The module itself: what it exports, its size, its answers, and what it makes of damaged files.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { Module } from "../module.js";

const wasm = readFileSync(new URL("../sherry.wasm", import.meta.url));
const compiled = new WebAssembly.Module(wasm);
const tiny = readFileSync(new URL("../../crates/cli/model/sherry-tiny.gguf", import.meta.url));
const golden = JSON.parse(readFileSync(new URL("greedy.json", import.meta.url)));

const BUDGET = 900_000;

const file = (bytes, name = "model.gguf") => ({ name, size: bytes.length, async read(offset, length, take) { take(bytes.subarray(offset, offset + length), 0); } });
const GREEDY = { temperature: 0, stop: [] };

function run(module, session, ids, options) {
  module.start(session, ids, options);
  const tokens = [];
  let text = "";
  for (let event; (event = module.next(session));) { text += event.text; if (event.kind === "token") tokens.push(event.token); }
  return { tokens, text };
}

test("it imports nothing, and exports what sherry.h declares and three functions more", () => {
  assert.deepEqual(WebAssembly.Module.imports(compiled), []);
  const header = readFileSync(new URL("../../crates/capi/include/sherry.h", import.meta.url), "utf8").replace(/\/\*[^]*?\*\//g, "");
  const declared = [...header.matchAll(/SHERRY_API [^(;]*?(sherry_\w+)\(/g)].map((match) => match[1]);
  const exported = WebAssembly.Module.exports(compiled).filter(({ kind }) => kind === "function").map(({ name }) => name);
  assert.ok(declared.length >= 15);
  assert.deepEqual(exported.sort(), [...declared, "sherry_alloc", "sherry_dealloc", "sherry_set_date"].sort());
});

test("it keeps to its size", () => {
  const size = gzipSync(wasm, { level: 9 }).length;
  console.log(`sherry.wasm: ${wasm.length} bytes, ${size} with gzip`);
  assert.ok(size <= BUDGET, `${size} bytes with gzip, more than ${BUDGET}`);
});

test("greedy tokens are those of the scalar kernels, one by one", async () => {
  const module = new Module(compiled);
  const model = await module.load([file(tiny)]);
  for (const { prompt, tokens } of golden) {
    const session = module.session(model, 512);
    assert.deepEqual(run(module, session, module.tokenize(model, prompt), { ...GREEDY, maxTokens: 256 }).tokens, tokens);
    module.freeSession(session);
  }
});

test("truncated and damaged files are errors and no traps", async () => {
  const module = new Module(compiled);
  const fails = (bytes) => assert.rejects(module.load([file(bytes)]), (error) => error.code === "model" && error.message.length > 10);
  for (let cut = 0; cut < 200; cut++) await fails(tiny.subarray(0, Math.floor((tiny.length * cut) / 200)));
  await fails(Buffer.from("GGML and nothing else"));
  const memory = module.memory;
  for (let cut = 0; cut < 200; cut++) await fails(tiny.subarray(0, Math.floor((tiny.length * cut) / 200)));
  assert.equal(module.memory, memory, "errors leave nothing behind");
  // Bytes of the header are changed: an error, or a model that says something else.
  for (let at = 0; at < 200; at++) {
    const changed = Buffer.from(tiny);
    changed[Math.floor((at * 60_000) / 200)] ^= 0x55;
    await module.load([file(changed)]).then((model) => module.free(model), (error) => assert.ok(["model", "invalid", "memory"].includes(error.code), error.message));
  }
  const model = await module.load([file(tiny)]);
  assert.ok(module.tokenize(model, "It goes on").length > 0);
  await assert.rejects(module.load([]), { code: "invalid" });
  await assert.rejects(module.load([file(tiny, "config.json"), file(tiny, "model.safetensors")]), { code: "model" });
});

test("20 loads need the memory of one", async () => {
  const module = new Module(compiled);
  let memory = 0;
  for (let time = 0; time < 20; time++) {
    const model = await module.load([file(tiny)]);
    const session = module.session(model, 512);
    run(module, session, [400, 500, 600], { ...GREEDY, maxTokens: 8 });
    module.freeSession(session);
    module.free(model);
    if (time === 1) memory = module.memory;
  }
  assert.equal(module.memory, memory);
});

test("text is whole characters, and stop strings are no part of it", async () => {
  const module = new Module(compiled);
  const model = await module.load([file(tiny)]);
  const session = module.session(model, 512);
  for (const text of ["naïve café — 你好, 世界 😀👩‍👩‍👧", "\0\u0001", ""]) {
    assert.equal(module.detokenize(model, module.tokenize(model, text, { addSpecial: false })), text);
  }
  // The model's own bytes, whatever it makes of them: pieces are never halves of characters.
  const prompt = module.tokenize(model, "Zürich, Göteborg, 東京");
  module.start(session, prompt, { stop: [], temperature: 5, seed: 7n, maxTokens: 300 });
  const tokens = [];
  let text = "";
  for (let event; (event = module.next(session));) {
    assert.ok(!/[\uD800-\uDBFF]$/.test(event.text));
    text += event.text;
    if (event.kind === "token") tokens.push(event.token);
  }
  const { text: free } = run(module, session, prompt, { ...GREEDY, maxTokens: 60 });
  const stop = free.slice(20, 24);
  assert.equal(run(module, session, prompt, { ...GREEDY, maxTokens: 60, stop: [stop] }).text, free.slice(0, free.indexOf(stop)));
  assert.throws(() => module.start(session, prompt, { stop: [""] }), { code: "invalid" });
  assert.throws(() => module.start(session, prompt, { stop: [], topP: 7 }), { code: "invalid", message: /top_p/ });
  assert.throws(() => module.start(session, [], { stop: [] }), { code: "invalid" });
  assert.throws(() => module.start(session, Array(513).fill(400), { stop: [] }), { code: "context" });
});

test("addresses above 2 GiB are addresses", async () => {
  const module = new Module(compiled);
  const large = new Module(compiled, { reserve: 0x8800_0000 });
  const [one, two] = [await module.load([file(tiny)]), await large.load([file(tiny)])];
  assert.ok(two > 0x8000_0000, "its model lies there");
  const say = (where, model) => run(where, where.session(model, 256), where.tokenize(model, "Once upon a time"), { ...GREEDY, maxTokens: 12 }).text;
  assert.equal(say(large, two), say(module, one));
});

test("the date of templates is told", async () => {
  const module = new Module(compiled);
  module.setDate(new Date(2026, 1, 28, 13, 5, 9));
  assert.ok(await module.load([file(tiny)]));
});

test("the package has the version of the library", () => {
  const own = JSON.parse(readFileSync(new URL("../package.json", import.meta.url))).version;
  const cargo = readFileSync(new URL("../../Cargo.toml", import.meta.url), "utf8");
  assert.equal(own, /^version = "([^"]+)"/m.exec(cargo)[1]);
});
