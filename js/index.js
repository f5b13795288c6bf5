// Language models in this page, or in Node: each in a worker of its own, so that nothing here ever waits.

import * as cache from "./cache.js";
import { SherryError, aborted } from "./errors.js";

export { SherryError };

const inNode = typeof process === "object" && Boolean(process.versions?.node);
const KV = { f16: 0, f32: 1, q8: 2, q4: 3 };
const LOAD = ["context", "threads", "signal", "cache", "sha256", "onProgress", "kv", "scalar", "name", "wasmUrl", "threadedWasmUrl", "workerUrl"];
const SAMPLING = ["maxTokens", "temperature", "topP", "topK", "minP", "repetitionPenalty", "repetitionWindow", "presencePenalty", "frequencyPenalty", "seed", "stop"];
const CONVERSATION = { tools: "tools", documents: "documents", continueFinalMessage: "continue_final_message", variables: "variables" };

/// What is misspelt would be left out silently.
function known(options, ...lists) {
  const names = lists.flat();
  for (const name of Object.keys(options)) if (!names.includes(name)) throw new SherryError("invalid", `There is no option '${name}'; there are ${names.join(", ")}.`);
}

/// The options of sampling, checked as far as numbers and texts go: what they may be is the model's to say.
function sampling(options) {
  const found = { stop: [] };
  for (const name of SAMPLING) {
    const value = options[name];
    if (value === undefined || value === null) continue;
    if (name === "stop") {
      found.stop = [value].flat();
      if (found.stop.some((text) => typeof text !== "string")) throw new SherryError("invalid", "stop: expected a text, or a list of them.");
    } else if (name === "seed") {
      if (!(typeof value === "bigint" || Number.isSafeInteger(value))) throw new SherryError("invalid", "seed: expected a whole number.");
      found.seed = value;
    } else {
      const whole = ["maxTokens", "topK", "repetitionWindow"].includes(name);
      if (typeof value !== "number" || !Number.isFinite(value) || (whole && !Number.isSafeInteger(value))) throw new SherryError("invalid", `${name}: expected a ${whole ? "whole " : ""}number.`);
      if (value < 0 && !/Penalty$/.test(name)) throw new SherryError("invalid", `${name} is ${value}; expected 0 or more.`);
      if (value < 0 && name === "repetitionPenalty") throw new SherryError("invalid", `${name} is ${value}; expected more than 0.`);
      found[name] = whole ? Math.min(value, 0x7FFF_FFFF) : value;
    }
  }
  return found;
}

/// The worker, and what is asked of it.
class Link {
  #worker;
  #asked = new Map(); // id -> { resolve, reject, hear }
  #next = 0;
  #end = null;

  constructor(worker) {
    this.#worker = worker;
    const hear = (message) => this.#hear(message);
    const fail = (error) => this.end(new SherryError("crashed", `The worker ended: ${error.message ?? "it could not be loaded"}`, { cause: error }));
    if (worker.on) { worker.on("message", hear); worker.on("error", fail); } else {
      worker.addEventListener("message", ({ data }) => hear(data));
      worker.addEventListener("error", fail);
    }
  }

  static async start(url) {
    if (!inNode) return new Link(url === undefined ? new Worker(new URL("./worker.js", import.meta.url), { type: "module" }) : new Worker(url, { type: "module" }));
    const { Worker: NodeWorker } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:worker_threads");
    return new Link(new NodeWorker(new URL(url ?? new URL("./worker.js", import.meta.url))));
  }

  #hear({ id, progress, events, done, error }) {
    const one = this.#asked.get(id);
    if (!one) return;
    if (progress) return one.hear?.({ progress });
    if (events) return one.hear?.({ events });
    this.#asked.delete(id);
    this.#rest();
    if (error) one.reject(error.code === "aborted" ? aborted() : new SherryError(error.code, error.message)); else one.resolve(done);
  }

  /// A program may end while nothing is asked: an idle model keeps no process of Node's alive.
  #rest() { if (inNode) { if (this.#asked.size) this.#worker.ref(); else this.#worker.unref(); } }

  ask(op, values, { signal, hear } = {}) {
    if (this.#end) return Promise.reject(this.#end);
    if (signal?.aborted) return Promise.reject(aborted(signal.reason));
    const id = this.#next++;
    const stop = () => this.abort(id);
    signal?.addEventListener("abort", stop, { once: true });
    const answer = new Promise((resolve, reject) => { this.#asked.set(id, { resolve, reject, hear }); });
    this.#rest();
    this.#worker.postMessage({ id, op, ...values });
    const promise = answer.catch((error) => { throw error.name === "AbortError" && signal?.aborted ? aborted(signal.reason) : error; })
      .finally(() => signal?.removeEventListener("abort", stop));
    return Object.assign(promise, { id });
  }

  abort(id) { if (this.#asked.has(id)) this.#worker.postMessage({ abort: id }); }

  async end(error = new SherryError("closed", "The model is closed.")) {
    this.#end ??= error;
    for (const { reject } of this.#asked.values()) reject(this.#end);
    this.#asked.clear();
    await this.#worker.terminate();
  }
}

const link = Symbol("link");

/// A model that is ready to be used.
export class Sherry {
  constructor(worker, info) {
    Object.defineProperty(this, link, { value: worker });
    /// What the model is.
    this.info = Object.freeze(info);
  }

  /// Loads a model: see index.d.ts.
  static async load(source, options = {}) {
    known(options, LOAD);
    const { signal, onProgress } = options;
    if (signal?.aborted) throw aborted(signal.reason);
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) throw new SherryError("invalid", "This browser is too old: it has no WebAssembly with vectors.");
    const context = options.context ?? 2048;
    if (!Number.isSafeInteger(context) || context < 1) throw new SherryError("invalid", `context is ${context}; expected a whole number from 1.`);
    if (options.kv !== undefined && !(options.kv in KV)) throw new SherryError("invalid", `kv is '${options.kv}'; expected ${Object.keys(KV).join(", ")}.`);
    if (![undefined, "opfs", "none"].includes(options.cache)) throw new SherryError("invalid", `cache is '${options.cache}'; expected opfs or none.`);
    if (options.sha256 !== undefined && !/^[0-9a-f]{64}$/i.test(options.sha256)) throw new SherryError("invalid", "sha256: expected 64 hexadecimal digits.");
    const threads = threadsOf(options.threads);
    const { given, name } = sourceOf(source);
    const worker = await Link.start(options.workerUrl);
    // A download cannot be stopped more quickly than with all of it; what has arrived stays in the cache.
    const ended = signal && new Promise((_, reject) => signal.addEventListener("abort", () => reject(aborted(signal.reason)), { once: true }));
    try {
      const wasmUrl = new URL(options.wasmUrl ?? new URL("./sherry.wasm", import.meta.url), globalThis.location?.href).href;
      const threadedUrl = new URL(options.threadedWasmUrl ?? new URL("./sherry-threads.wasm", import.meta.url), globalThis.location?.href).href;
      const asked = worker.ask("load", {
        source: given, wasmUrl, threadedUrl, threads, context, cache: options.cache ?? "opfs", sha256: options.sha256 ?? null, kv: KV[options.kv ?? "f16"], scalar: options.scalar ?? false,
      }, { hear: ({ progress }) => onProgress?.(progress) });
      const info = await (ended ? Promise.race([asked, ended]) : asked);
      return new Sherry(worker, { name: options.name ?? name, ...info });
    } catch (error) {
      await worker.end(error);
      throw error;
    }
  }

  /// Continues a text, or tokens; yields { text, tokens }, and at the end { finish, usage, timings } too.
  generate(prompt, options = {}) {
    known(options, SAMPLING, ["signal", "onPrompt"]);
    const given = typeof prompt === "string" ? { text: prompt } : { ids: idsOf(prompt) };
    return stream(this[link], given, options);
  }

  /// Answers a conversation: a promise of a completion as OpenAI's, or with `stream: true` an iterator of its chunks.
  chat(messages, options = {}) {
    known(options, SAMPLING, Object.keys(CONVERSATION), ["signal", "onPrompt", "stream"]);
    const conversation = { messages };
    for (const [name, field] of Object.entries(CONVERSATION)) if (options[name] !== undefined) conversation[field] = options[name];
    const pieces = stream(this[link], { conversation }, options);
    const base = { id: `chatcmpl-${Math.random().toString(36).slice(2)}`, created: Math.floor(Date.now() / 1000), model: this.info.name };
    return options.stream ? chunks(pieces, base) : whole(pieces, base);
  }

  /// The tokens of a text, with those that the model wants around it unless `addSpecial` is false.
  async tokenize(text, { signal, ...options } = {}) {
    known(options, ["addSpecial", "parseSpecial"]);
    return this[link].ask("tokenize", { text: String(text), ...options }, { signal });
  }

  /// The text of tokens.
  async detokenize(ids, { signal, ...options } = {}) {
    known(options, ["keepSpecial"]);
    return this[link].ask("detokenize", { ids: idsOf(ids), ...options }, { signal });
  }

  /// The prompt of a conversation, as tokens.
  async prompt(messages, { signal, ...options } = {}) {
    known(options, Object.keys(CONVERSATION));
    const conversation = { messages };
    for (const [name, field] of Object.entries(CONVERSATION)) if (options[name] !== undefined) conversation[field] = options[name];
    return this[link].ask("prompt", { conversation }, { signal });
  }

  /// The logits of the token that comes after `ids`.
  async logits(ids, { signal } = {}) { return this[link].ask("logits", { ids: idsOf(ids) }, { signal }); }

  /// Ends the worker, which frees all memory. What is being asked fails with the code "closed".
  async close() { await this[link].end(); }
  async [Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]() { await this.close(); }

  /// The models in this browser's cache.
  static cached() { return cache.list(); }

  /// Forgets one. Whether it was there.
  static evict(url) { return cache.evict(new URL(url, globalThis.location?.href).href); }
}

// An instruction with vectors: (func (result v128) i32.const 0 i8x16.splat).
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11]);

/// How many threads there are to be: several take memory that workers share, which browsers give to isolated pages only.
function threadsOf(threads = 1) {
  if (threads !== "auto" && !(Number.isSafeInteger(threads) && threads >= 1 && threads <= 64)) throw new SherryError("invalid", `threads is ${threads}; expected "auto" or a number from 1 to 64.`);
  if (!inNode && !globalThis.crossOriginIsolated) return 1;
  // Of the cores that are told of, half may be hyper-threads, which add nothing.
  return threads === "auto" ? Math.max(1, Math.min(8, (globalThis.navigator?.hardwareConcurrency ?? 2) >> 1)) : threads;
}

function idsOf(ids) {
  const found = Array.from(ids ?? []);
  if (!found.every((id) => Number.isInteger(id) && id >= 0 && id <= 0xFFFF_FFFF)) throw new SherryError("invalid", "Expected a text, or tokens: whole numbers from 0.");
  return found;
}

/// What the worker gets: URLs and blobs, which are not copied on the way.
function sourceOf(source) {
  const absolute = (url) => { try { return new URL(url, globalThis.location?.href).href; } catch { throw new SherryError("invalid", `'${url}' is no URL.`); } };
  const last = (url) => decodeURIComponent(new URL(url).pathname.replace(/\/$/, "").split("/").pop()) || "model";
  const one = (value) => {
    if (typeof value === "string" || value instanceof URL) return absolute(value);
    if (value instanceof Blob) return value;
    if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return new Blob([value]);
    throw new SherryError("invalid", "Expected a URL, a Blob or File, bytes, or { files: { name: one of these } }.");
  };
  if (source?.files) {
    const files = Array.isArray(source.files) || typeof source.files[Symbol.iterator] === "function" ? Object.fromEntries([...source.files].map((file) => [file.name, file])) : source.files;
    const names = Object.keys(files);
    if (!names.length) throw new SherryError("invalid", "files: there are none.");
    return { given: Object.fromEntries(names.map((name) => [name, one(files[name])])), name: names[0] };
  }
  const given = one(source);
  return { given, name: typeof given === "string" ? last(given) : given.name ?? "model" };
}

/// The events of a generation, as an iterator. Leaving it stops the generation.
async function* stream(worker, prompt, options) {
  const queue = [];
  let wake = () => {};
  let result = null;
  const hear = ({ events }) => { queue.push(...events); wake(); };
  const asked = worker.ask("generate", { prompt, options: sampling(options) }, { signal: options.signal, hear });
  const ended = asked.then((value) => { result = { value }; }, (error) => { result = { error }; }).finally(() => wake());
  try {
    while (queue.length || !result) {
      if (!queue.length) { await new Promise((resolve) => { wake = resolve; if (queue.length || result) resolve(); }); continue; }
      let text = "";
      const tokens = [];
      for (const event of queue.splice(0)) {
        if (event.prompt) { options.onPrompt?.(event.prompt); continue; }
        text += event.text;
        if (event.token !== undefined) tokens.push(event.token);
      }
      if (text || tokens.length) yield { text, tokens };
    }
    if (result.error) throw result.error;
    yield { text: "", tokens: [], ...result.value };
  } finally {
    if (!result) { worker.abort(asked.id); await ended; }
  }
}

const REASONS = { stop: "stop", length: "length", context: "length", cancelled: null };

async function* chunks(pieces, base) {
  const chunk = (delta, finish = null, more = {}) => ({ ...base, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: finish }], ...more });
  let begun = false;
  for await (const { text, finish, usage, timings } of pieces) {
    if (!begun) { begun = true; yield chunk({ role: "assistant", content: "" }); }
    if (text) yield chunk({ content: text });
    if (finish) yield chunk({}, REASONS[finish], { usage, timings });
  }
}

async function whole(pieces, base) {
  let content = "";
  let last = null;
  for await (const piece of pieces) { content += piece.text; last = piece; }
  return {
    ...base, object: "chat.completion", choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: REASONS[last.finish] }],
    usage: last.usage, timings: last.timings,
  };
}
