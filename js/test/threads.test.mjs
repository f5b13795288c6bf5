// Several threads on one memory: the same tokens as on one. Skipped where js/build has not made the module for it.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { Sherry } from "../index.js";

const TINY = new URL("../../crates/cli/model/sherry-tiny.gguf", import.meta.url);
const WASM = new URL("../sherry-threads.wasm", import.meta.url);
const golden = JSON.parse(readFileSync(new URL("greedy.json", import.meta.url)));
const skip = existsSync(WASM) ? false : "no sherry-threads.wasm (js/build threads makes it)";

const greedy = async (model, prompt, maxTokens = 256) => {
  const tokens = [];
  for await (const piece of model.generate(prompt, { temperature: 0, maxTokens })) tokens.push(...piece.tokens);
  return tokens;
};

test("it imports its memory and nothing else, and keeps to its size", { skip }, () => {
  const wasm = readFileSync(WASM);
  assert.deepEqual(WebAssembly.Module.imports(new WebAssembly.Module(wasm)).map(({ module, name, kind }) => [module, name, kind]), [["env", "memory", "memory"]]);
  const size = gzipSync(wasm, { level: 9 }).length;
  console.log(`sherry-threads.wasm: ${wasm.length} bytes, ${size} with gzip`);
  assert.ok(size <= 900_000, `${size} bytes with gzip, more than 900000`);
});

test("tokens and logits are those of one thread, bit for bit", { skip }, async () => {
  const alone = await Sherry.load(TINY, { context: 512 });
  assert.equal(alone.info.threads, 1);
  for (const threads of [2, 3]) {
    const model = await Sherry.load(TINY, { context: 512, threads });
    assert.equal(model.info.threads, threads);
    for (const { prompt, tokens } of golden) assert.deepEqual(await greedy(model, prompt), tokens);
    const ids = Array.from({ length: 300 }, (_, index) => 300 + (index % 90));
    assert.deepEqual(Buffer.from((await model.logits(ids)).buffer), Buffer.from((await alone.logits(ids)).buffer));
    await model.close();
  }
  await alone.close();
});

test("threads take part", { skip }, async () => {
  const { Module } = await import("../module.js");
  const { Worker } = await import("node:worker_threads");
  const compiled = new WebAssembly.Module(readFileSync(WASM));
  const memory = Module.shared();
  const module = new Module(compiled, { memory });
  const bytes = readFileSync(TINY);
  const model = await module.load([{ name: "x.gguf", size: bytes.length, async read(offset, length, take) { take(bytes.subarray(offset, offset + length), 0); } }], { threads: 2 });
  let lived = false;
  // A thread that comes too late, on a busy machine, finds nothing to do.
  for (let round = 0; round < 10 && !lived; round++) {
    const session = module.session(model, 512);
    const worker = new Worker(new URL("../worker.js", import.meta.url));
    const told = new Promise((resolve) => worker.on("message", resolve));
    const ended = new Promise((resolve) => worker.on("exit", resolve));
    worker.postMessage({ thread: { compiled, memory, room: module.thread() } });
    // Nearly at random, so that the text does not end early.
    const random = { temperature: 5, topK: 0, topP: 1, minP: 0, seed: BigInt(round) };
    module.start(session, [400, 500, 600], { ...random, stop: [], maxTokens: 400 });
    while (module.next(session)) await new Promise((resolve) => setImmediate(resolve));
    // It lives until its session is gone, and then comes to its end by itself.
    module.freeSession(session);
    ({ lived } = await told);
    await ended;
  }
  assert.ok(lived);
});

test("models come and go, and where nothing comes to help one thread does the work", { skip }, async () => {
  for (let time = 0; time < 5; time++) {
    const model = await Sherry.load(TINY, { context: 128, threads: 2 });
    assert.equal((await greedy(model, "Once", 8)).length, 8);
    await model.close();
  }
  const model = await Sherry.load(TINY, { threads: 2, threadedWasmUrl: new URL("nothing.wasm", import.meta.url) });
  assert.equal(model.info.threads, 1);
  assert.deepEqual(await greedy(model, golden[0].prompt), golden[0].tokens);
  await model.close();
});
