// The package as programs use it: workers, signals, iterators, files and servers.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import { Sherry, SherryError } from "../index.js";
import { Sha256 } from "../sha256.js";

const TINY = new URL("../../crates/cli/model/sherry-tiny.gguf", import.meta.url);
const bytes = readFileSync(TINY);
const sha256 = createHash("sha256").update(bytes).digest("hex");
const HELLO = [{ role: "user", content: "Tell me about the sea." }];

let model;
before(async () => { model = await Sherry.load(TINY); });
after(async () => { await model.close(); });

const collect = async (pieces) => { const all = []; for await (const piece of pieces) all.push(piece); return all; };
const text = (pieces) => pieces.map((piece) => piece.text).join("");

test("a model by URL, blob, bytes and names; progress and what it is", async () => {
  const stages = [];
  const sources = [TINY.href, new Blob([bytes]), bytes, bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length), { files: { "any.gguf": new Blob([bytes]) } }];
  const expected = text(await collect(model.generate("Once", { maxTokens: 8, temperature: 0 })));
  for (const source of sources) {
    const one = await Sherry.load(source, { context: 128, onProgress: (progress) => stages.push(progress) });
    assert.equal(one.info.context, 128);
    assert.ok(one.info.canChat && one.info.parameters > 3e6 && one.info.bitsPerWeight < 3 && /4 layers/.test(one.info.description));
    assert.equal(text(await collect(one.generate("Once", { maxTokens: 8, temperature: 0 }))), expected);
    await one.close();
  }
  assert.ok(stages.some(({ stage, loaded, total }) => stage === "prepare" && loaded > 0 && total === bytes.length));
});

test("texts come in pieces, tokens with them, and numbers at the end", async () => {
  const pieces = await collect(model.generate("Once upon a time", { maxTokens: 40, temperature: 0 }));
  const last = pieces.at(-1);
  assert.deepEqual([last.finish, last.usage.completion_tokens, last.usage.prompt_tokens], ["length", 40, (await model.tokenize("Once upon a time")).length]);
  assert.equal(await model.detokenize(pieces.flatMap(({ tokens }) => tokens)), text(pieces));
  assert.ok(last.timings.predicted_per_second > 0 && last.timings.memory > 1e6);
  const seeded = async (seed) => text(await collect(model.generate("Once", { maxTokens: 20, temperature: 1, seed })));
  assert.equal(await seeded(3), await seeded(3n));
  assert.notEqual(await seeded(3), await seeded(4));
  const logits = await model.logits(await model.tokenize("Once upon a time"));
  assert.ok(logits instanceof Float32Array && logits.length === model.info.vocab);
  assert.equal(logits.indexOf(Math.max(...logits)), pieces.flatMap(({ tokens }) => tokens)[0]);
});

test("chats are OpenAI's", async () => {
  const options = { maxTokens: 12, temperature: 0 };
  const chunks = await collect(model.chat(HELLO, { ...options, stream: true }));
  const answer = await model.chat(HELLO, options);
  assert.deepEqual(chunks[0].choices[0].delta, { role: "assistant", content: "" });
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), answer.choices[0].message.content);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 12);
  assert.ok(chunks.every((chunk) => chunk.object === "chat.completion.chunk" && chunk.model === "sherry-tiny.gguf" && chunk.id === chunks[0].id));
  assert.equal(answer.usage.prompt_tokens, (await model.prompt(HELLO)).length);
});

test("a signal ends prompts and texts, and so does leaving the loop; the model goes on", async () => {
  const long = Array.from({ length: 450 }, (_, index) => 300 + (index % 90));
  const control = new AbortController();
  const seen = [];
  await assert.rejects(collect(model.generate(long, { signal: control.signal, onPrompt: (progress) => { seen.push(progress); control.abort(); } })), { name: "AbortError" });
  assert.ok(seen.length >= 1 && seen[0].done <= 128, JSON.stringify(seen));

  const other = new AbortController();
  const pieces = [];
  await assert.rejects(async () => {
    for await (const piece of model.generate("Once", { signal: other.signal, temperature: 0, maxTokens: 500 })) { pieces.push(piece); other.abort(new Error("enough")); }
  }, { message: "enough" });
  assert.ok(pieces.flatMap(({ tokens }) => tokens).length < 400);
  for await (const piece of model.generate("Once", { temperature: 0 })) if (piece.text) break;
  await assert.rejects(collect(model.generate("Once", { signal: AbortSignal.abort() })), { name: "AbortError" });
  await assert.rejects(Sherry.load(TINY, { signal: AbortSignal.abort() }), { name: "AbortError" });
  const loading = new AbortController();
  await assert.rejects(Sherry.load(TINY, { signal: loading.signal, onProgress: () => loading.abort() }), { name: "AbortError" });
  assert.equal((await collect(model.generate("Once", { maxTokens: 3 }))).at(-1).finish, "length");
});

test("what is asked at the same time is done one after the other", async () => {
  const say = (prompt) => collect(model.generate(prompt, { maxTokens: 30, temperature: 0 })).then(text);
  const alone = [await say("Once upon a time"), await say("The sea is")];
  assert.deepEqual(await Promise.all([say("Once upon a time"), say("The sea is")]), alone);
});

test("what is wrong has a name", async () => {
  const fails = (work, code) => assert.rejects(work, (error) => error instanceof SherryError && error.code === code && error.message.length > 10);
  await fails(Sherry.load(TINY, { contxt: 5 }), "invalid");
  await fails(Sherry.load(TINY, { context: 0 }), "invalid");
  await fails(Sherry.load(TINY, { threads: 0 }), "invalid");
  await fails(Sherry.load("not a url"), "invalid");
  await fails(Sherry.load(5), "invalid");
  await fails(Sherry.load({ files: {} }), "invalid");
  await fails(Sherry.load(new Blob(["nothing"])), "model");
  await fails(Sherry.load(new URL("none.gguf", TINY)), "network");
  await fails(Sherry.load("http://127.0.0.1:1/x.gguf"), "network");
  await fails(Sherry.load(TINY, { wasmUrl: new URL("none.wasm", TINY) }), "crashed");
  assert.throws(() => model.chat(HELLO, { max_tokens: 5 }), { code: "invalid", message: /max_tokens.*maxTokens/ });
  for (const options of [{ temperature: "hot" }, { topK: 1.5 }, { maxTokens: -1 }, { seed: 0.5 }, { stop: [5] }, { topP: 2 }]) {
    await fails(collect(model.generate("Once", options)), "invalid");
  }
  assert.throws(() => model.generate([1e10]), { code: "invalid" });
  await fails(collect(model.generate([0, model.info.vocab])), "invalid");
  await fails(collect(model.generate(Array(600).fill(5))), "context");
  await fails(model.chat("Hi", {}), "invalid");
  const closing = await Sherry.load(TINY);
  const asked = fails(collect(closing.generate("Once")), "closed");
  await closing.close();
  await asked;
  await fails(closing.tokenize("x"), "closed");
});

test("servers: checksums, files that break off, folders", async (context) => {
  let behave = (_, response) => response.end(bytes);
  const server = createServer((request, response) => behave(request, response)).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  context.after(() => server.close());
  const url = `http://127.0.0.1:${server.address().port}/some/model.gguf`;
  const one = await Sherry.load(url, { sha256: sha256.toUpperCase() });
  assert.equal(one.info.name, "model.gguf");
  await one.close();
  await assert.rejects(Sherry.load(url, { sha256: "0".repeat(64) }), { code: "network", message: new RegExp(sha256) });
  behave = (_, response) => { response.writeHead(200, { "Content-Length": bytes.length }); response.write(bytes.subarray(0, 1000), () => response.destroy()); };
  await assert.rejects(Sherry.load(url), { code: "network" });
  behave = (_, response) => { response.writeHead(500); response.end(); };
  await assert.rejects(Sherry.load(url), { code: "network", message: /500/ });
  const folder = process.env.SHERRY_WEB_FOLDER;
  if (!folder) return context.diagnostic("skipped: SHERRY_WEB_FOLDER names no folder of a model");
  behave = (request, response) => {
    const name = `${folder}/${request.url.split("/").pop()}`;
    if (existsSync(name)) response.end(readFileSync(name)); else { response.writeHead(404); response.end(); }
  };
  const loaded = await Sherry.load(url.replace("model.gguf", ""));
  const local = await Sherry.load(`${pathToFileURL(folder).href}/`);
  const say = async (which) => text(await collect(which.generate("Once upon a time", { maxTokens: 12, temperature: 0 })));
  assert.equal(await say(loaded), await say(local));
  await loaded.close();
  await local.close();
});

test("SHA-256 in pieces", () => {
  for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 70_000]) {
    const whole = bytes.subarray(0, length);
    const own = new Sha256();
    for (let at = 0; at < length; at += 37) own.update(whole.subarray(at, Math.min(at + 37, length)));
    assert.equal(own.hex(), createHash("sha256").update(whole).digest("hex"));
  }
});

const large = process.env.SHERRY_WEB_LARGE;
test("a model needs its own size, and no copy of its file", { skip: large ? false : "SHERRY_WEB_LARGE names no larger model" }, async () => {
  const size = statSync(large).isDirectory() ? readdirSync(large).reduce((sum, name) => sum + statSync(`${large}/${name}`).size, 0) : statSync(large).size;
  const url = pathToFileURL(large).href + (statSync(large).isDirectory() ? "/" : "");
  const one = await Sherry.load(url, { context: 512 });
  // Keys and values of SmolLM2's 30 layers and 3 heads, two bytes each, and 256 positions more for the cache of prefixes.
  const { usage, timings } = (await collect(one.generate("The capital of France is", { maxTokens: 20, temperature: 0 }))).at(-1);
  const cache = 2 * 2 * 30 * 3 * 64 * 768;
  console.log(`${size} bytes of files, ${timings.memory} of memory, ${usage.completion_tokens} tokens, ${timings.predicted_per_second.toFixed(1)} a second`);
  assert.ok(timings.memory < 1.3 * size + cache, `${timings.memory} bytes for ${size}`);
  await one.close();
});
