// Where a model lives: one worker, one instance of the module, one model. Messages in: { id, op, ... } and { abort: id }; out: { id,
// progress }, { id, events }, and in the end { id, done } or { id, error }. A message { thread } makes a worker a thread of another one.

import { available } from "./cache.js";
import { SherryError, aborted } from "./errors.js";
import { filesOf } from "./files.js";
import { Module } from "./module.js";

const inNode = typeof process === "object" && Boolean(process.versions?.node);
const { parentPort, Worker: NodeWorker } = inNode ? await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:worker_threads") : { parentPort: null };
const port = parentPort ?? self;
const listen = (handler) => (parentPort ? parentPort.on("message", handler) : self.addEventListener("message", ({ data }) => handler(data)));

/// Lets messages in: what says "stop" is read here. A timer would wait for four milliseconds.
const channel = inNode ? null : new MessageChannel();
const breathe = () => new Promise((resolve) => { if (inNode) setImmediate(resolve); else { channel.port1.onmessage = resolve; channel.port2.postMessage(0); } });

const BATCH = 16; // milliseconds of events that are told together

let module = null;
let model = 0;
let session = 0;
let info = null;
const threads = []; // further workers
const running = new Map(); // id -> AbortController

async function compile(url) {
  if (inNode && new URL(url).protocol === "file:") {
    const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises");
    return WebAssembly.compile(await readFile(new URL(url)));
  }
  const answer = await fetch(url).catch((error) => { throw new SherryError("network", `${url} cannot be reached: ${error.message}`); });
  if (!answer.ok) throw new SherryError("network", `${url}: status ${answer.status}`);
  // Servers that do not know the type of .wasm are many.
  return WebAssembly.compile(await answer.arrayBuffer());
}

/// The module and how many threads it has: one where there is no shared memory, or no module for it.
async function modules({ wasmUrl, threadedUrl, wanted }) {
  if (wanted > 1) {
    try { return { compiled: await compile(threadedUrl), memory: Module.shared(), count: wanted }; } catch { /* one thread it is */ }
  }
  return { compiled: await compile(wasmUrl), memory: null, count: 1 };
}

/// Starts a thread. Until it is there, and where it does not come, the others do its work.
function startThread(compiled, memory) {
  const thread = inNode ? new NodeWorker(new URL(import.meta.url)) : new Worker(self.location.href, { type: "module" });
  thread.unref?.();
  thread.postMessage({ thread: { compiled, memory, room: module.thread() } });
  threads.push(thread);
}

const date = () => module.setDate(new Date());

const operations = {
  async load({ source, wasmUrl, threadedUrl, threads: wanted, context, cache, sha256, kv, scalar }, { signal, tell }) {
    const ready = modules({ wasmUrl, threadedUrl, wanted });
    // The files are on their way meanwhile; what fails first is told.
    const progress = (stage, loaded, total) => tell({ progress: { stage, loaded, total } });
    const use = cache === "opfs" && available() ? "opfs" : "none";
    const [{ compiled, memory, count }, files] = await Promise.all([ready, filesOf(source, { use, sha256, signal, progress })]);
    try {
      module = new Module(compiled, { memory });
      date();
      model = await module.load(files, { kv, scalar, threads: count }, (loaded, total) => progress("prepare", loaded, total));
    } finally { for (const file of files) await file.close?.(); }
    info = module.describe(model);
    context = Math.min(context, info.trainedContext);
    session = module.session(model, context);
    for (let index = 1; index < count; index++) startThread(compiled, memory);
    return { ...info, context, threads: count, bitsPerWeight: (8 * info.bytes) / info.parameters, memory: module.memory };
  },

  tokenize: ({ text, ...options }) => module.tokenize(model, text, options),
  detokenize: ({ ids, ...options }) => module.detokenize(model, ids, options),
  prompt({ conversation }) { date(); return module.prompt(model, conversation); },
  logits: ({ ids }) => module.logits(session, ids, info.vocab),

  async generate({ prompt, options }, { signal, tell }) {
    let ids = prompt.ids;
    if (prompt.conversation) ids = operations.prompt(prompt);
    else if (prompt.text !== undefined) ids = module.tokenize(model, prompt.text);
    const begun = performance.now();
    module.start(session, ids, options);
    let first = 0;
    let tokens = 0;
    let cached = 0;
    let told = begun;
    let rested = begun;
    let events = [];
    const flush = (now) => { if (events.length) tell({ events }); events = []; told = now; };
    for (;;) {
      if (signal.aborted) { module.cancel(session); module.next(session); flush(0); throw aborted(signal.reason); }
      const event = module.next(session);
      const now = performance.now();
      if (event.kind === "prompt") { cached = event.cached; events.push({ prompt: { done: event.done, total: event.total, cached } }); } else if (event.kind === "token") {
        if (!tokens++) first = now;
        events.push({ text: event.text, token: event.token });
      } else {
        if (event.text) events.push({ text: event.text });
        flush(now);
        const rate = (count, time) => (time > 0 ? (1000 * count) / time : 0);
        return {
          finish: event.finish,
          usage: { prompt_tokens: ids.length, completion_tokens: tokens, total_tokens: ids.length + tokens, prompt_tokens_details: { cached_tokens: cached } },
          timings: {
            prompt_ms: (first || now) - begun, prompt_per_second: rate(ids.length - cached, (first || now) - begun),
            predicted_ms: first ? now - first : 0, predicted_per_second: rate(tokens - 1, first ? now - first : 0), memory: module.memory,
          },
        };
      }
      if (now - told >= BATCH || tokens === 1 || event.kind === "prompt") flush(now);
      if (now - rested >= BATCH || event.kind === "prompt") { rested = now; await breathe(); }
    }
  },
};

let last = Promise.resolve();

listen((message) => {
  if (message.thread) {
    const { compiled, memory, room } = message.thread;
    port.postMessage({ lived: Module.live(compiled, memory, room) });
    port.close();
    return;
  }
  if (message.abort !== undefined) { running.get(message.abort)?.abort(); return; }
  const { id, op, ...rest } = message;
  const control = new AbortController();
  running.set(id, control);
  const tell = (news) => port.postMessage({ id, ...news });
  // One thing after the other: there is one session.
  last = last.then(async () => {
    try {
      if (control.signal.aborted) throw aborted();
      const value = await operations[op](rest, { signal: control.signal, tell });
      tell({ done: value ?? null });
    } catch (error) {
      // What is no error of ours is a fault of this program.
      const code = error.code && error instanceof SherryError ? error.code : error.name === "AbortError" ? "aborted" : "crashed";
      tell({ error: { code, message: error.message } });
    } finally { running.delete(id); }
  });
});
