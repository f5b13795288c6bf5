// What the page asks: here there is no server, but a model in a worker of this page. The same functions as those of the server's own page,
// with the same answers and failures.

import { Sherry } from "./sherry/index.js";

/// The request cannot be met.
export class Refusal extends Error {
  constructor(status, code, message, detail = {}) {
    super(message);
    Object.assign(this, { status, code, detail });
  }
}

/// The model is gone.
export class Gone extends Error {}

export const words = { waiting: "Waiting for the model …", loading: "The model is being loaded …", gone: "No model is loaded. Choose one in the settings." };

const FIRST = { source: new URL("sherry-tiny.gguf", import.meta.url).href, name: "sherry-tiny", cache: "none" };

let model = null;
let loading = null;
let changed = () => {};

/// Calls `act` when there is another model.
export const onChange = (act) => { changed = act; };
export const useKey = () => true;

/// Loads a model in place of the one there is: { source, name, cache, sha256 }. The one inside the page comes back if that fails.
export async function choose(wanted, { signal, onProgress } = {}) {
  const load = ({ source, ...options }, more = {}) => Sherry.load(source, { context: 4096, threads: "auto", ...options, ...more });
  const attempt = (async () => {
    // Two models at once are more than many devices have room for.
    const before = model;
    model = null;
    await before?.close();
    try { model = await load(wanted, { signal, onProgress }); } catch (error) {
      model = await load(FIRST);
      throw error;
    }
  })();
  loading = attempt.catch(() => {});
  changed();
  try { await attempt; } finally { changed(); }
  return model.info;
}

/// Loads the first model.
export const begin = (wanted, hooks) => choose(wanted ?? FIRST, hooks);

/// "ready" once the model is.
export async function health() {
  await loading;
  return model ? "ready" : "gone";
}

export async function props() {
  const { info } = model;
  return {
    version: "in this page", has_chat_template: info.canChat,
    model: { id: info.name, parameters: info.parameters, bits_per_weight: info.bitsPerWeight, bytes: info.bytes, context: info.context },
    defaults: {}, engine: { isa: "simd128", threads: 1, kv: "f16", precision: "int8" },
  };
}

/// How many tokens a prompt has.
export async function count({ messages, prompt }) {
  return (await (messages ? model.prompt(messages) : model.tokenize(prompt))).length;
}

const NAMES = { max_tokens: "maxTokens", temperature: "temperature", top_p: "topP", top_k: "topK", min_p: "minP" };

/// Calls `each` with every event of an answer, in the form of the server's.
export async function stream(path, { seed, messages, prompt, continue_final_message: continueFinalMessage, ...body }, signal, each) {
  const drawn = seed ?? String(crypto.getRandomValues(new BigInt64Array(1))[0]);
  const options = { signal, seed: BigInt(drawn), onPrompt: ({ done, total }) => each({ prompt_progress: { processed: done, total } }) };
  for (const [name, own] of Object.entries(NAMES)) if (body[name] !== undefined) options[own] = body[name];
  const answering = model;
  if (!answering) throw new Gone("No model is loaded.");
  try {
    if (messages) {
      for await (const chunk of answering.chat(messages, { ...options, ...(continueFinalMessage && { continueFinalMessage }), stream: true })) each(chunk.usage ? { ...chunk, seed: drawn } : chunk);
    } else {
      for await (const { text, finish, usage, timings } of answering.generate(prompt, options)) {
        each({ choices: [{ text, finish_reason: finish === "context" ? "length" : finish ?? null }], ...(usage && { usage, timings, seed: drawn }) });
      }
    }
  } catch (error) {
    if (error.code === "context") throw new Refusal(400, "context_length_exceeded", error.message, { n_prompt_tokens: await count({ messages, prompt }), n_ctx: answering.info.context });
    if (error.code === "crashed" || error.code === "closed") {
      if (model === answering && error.code === "crashed") { loading = begin().catch(() => {}); }
      throw new Gone(error.code === "crashed" ? error.message : "Another model was chosen.");
    }
    throw error.code ? new Refusal(400, error.code, error.message) : error;
  }
}

/// Bytes of the module's memory.
export const memory = () => model?.info.memory ?? 0;
