/** An error of this package; what was aborted throws a `DOMException` called `AbortError` instead, as `fetch` does. */
export class SherryError extends Error {
  /**
   * - `invalid`: a request that cannot be met as it is
   * - `model`: a file is damaged, or of a kind that is not supported
   * - `network`: a file could not be had, or has another checksum
   * - `memory`: there is not enough, in memory or in the cache
   * - `context`: a prompt longer than the context
   * - `crashed`: the worker is lost; load the model again
   * - `closed`: the model was closed
   */
  readonly code: "invalid" | "model" | "network" | "memory" | "context" | "crashed" | "closed";
}

type Bytes = Blob | ArrayBuffer | ArrayBufferView;
type Files = Record<string, string | URL | Bytes> | Iterable<File>;

/** The URL of a GGUF file or of a folder with config.json, a file, bytes, or several files by name. */
export type Source = string | URL | Bytes | { files: Files };

export interface Progress {
  /** `download`, `cache` (found there), then `prepare`: the module reads the files. */
  stage: "download" | "cache" | "prepare";
  loaded: number;
  /** `null` where a server does not say. */
  total: number | null;
}

export interface LoadOptions {
  /** Most tokens of prompt and answer together; 2048, or the model's own where that is less. */
  context?: number;
  /**
   * One by default. Several need memory that workers share: a page gets it with the headers `Cross-Origin-Opener-Policy: same-origin`
   * and `Cross-Origin-Embedder-Policy: require-corp`, and computes on one thread without them (`info.threads` says). Answers are the same.
   */
  threads?: "auto" | number;
  /** Ends loading at once. What was downloaded stays in the cache, and the next attempt goes on from there. */
  signal?: AbortSignal;
  /** Where downloads are kept: the browser's private file system (the default, where there is one), or nowhere. */
  cache?: "opfs" | "none";
  /** Of the GGUF file, or of model.safetensors; checked while it is downloaded. */
  sha256?: string;
  onProgress?: (progress: Progress) => void;
  /** What keys and values are stored as; `q8` takes half the memory of `f16`, `q4` a third. */
  kv?: "f16" | "f32" | "q8" | "q4";
  /** What completions say the model is called. */
  name?: string;
  /** Where the parts of this package are, if not beside it. */
  wasmUrl?: string | URL;
  threadedWasmUrl?: string | URL;
  workerUrl?: string | URL;
}

export interface Sampling {
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  repetitionPenalty?: number;
  repetitionWindow?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** Same seed, same text; 0 if none is given. */
  seed?: number | bigint;
  stop?: string | string[];
}

export interface GenerateOptions extends Sampling {
  /** Stops within 128 tokens of a prompt, or at the next token. */
  signal?: AbortSignal;
  onPrompt?: (progress: { done: number; total: number; cached: number }) => void;
}

export interface ConversationOptions {
  tools?: object[];
  documents?: object[];
  continueFinalMessage?: boolean;
  /** Further variables of the template, such as `enable_thinking`. */
  variables?: Record<string, unknown>;
}

export interface Message {
  role: string;
  content: string | object[];
  [field: string]: unknown;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

export interface Timings {
  prompt_ms: number;
  prompt_per_second: number;
  predicted_ms: number;
  predicted_per_second: number;
  /** Bytes of the module's memory. */
  memory: number;
}

export interface Piece {
  /** Whole characters. */
  text: string;
  tokens: number[];
  /** With the last piece. */
  finish?: "stop" | "length" | "context" | "cancelled";
  usage?: Usage;
  timings?: Timings;
}

export interface ChatChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  choices: { index: 0; delta: { role?: "assistant"; content?: string }; finish_reason: "stop" | "length" | null }[];
  usage?: Usage;
  timings?: Timings;
}

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  created: number;
  model: string;
  choices: { index: 0; message: { role: "assistant"; content: string }; finish_reason: "stop" | "length" | null }[];
  usage: Usage;
  timings: Timings;
}

export interface Info {
  name: string;
  description: string;
  canChat: boolean;
  vocab: number;
  layers: number;
  hidden: number;
  /** Most tokens of prompt and answer together. */
  context: number;
  /** Those that the model was made for. */
  trainedContext: number;
  parameters: number;
  /** Of the weights. */
  bytes: number;
  bitsPerWeight: number;
  threads: number;
  /** Bytes of the module's memory after loading. */
  memory: number;
}

/** A model that is ready to be used. It lives in a worker of its own and does one thing after the other. */
export class Sherry {
  private constructor();
  static load(source: Source, options?: LoadOptions): Promise<Sherry>;
  readonly info: Readonly<Info>;
  /** Continues a text, read as it is, or tokens. Leaving the loop stops it. */
  generate(prompt: string | Iterable<number>, options?: GenerateOptions): AsyncGenerator<Piece, void, void>;
  /** Answers a conversation by the model's template. */
  chat(messages: Message[], options: GenerateOptions & ConversationOptions & { stream: true }): AsyncGenerator<ChatChunk, void, void>;
  chat(messages: Message[], options?: GenerateOptions & ConversationOptions & { stream?: false }): Promise<ChatCompletion>;
  tokenize(text: string, options?: { addSpecial?: boolean; parseSpecial?: boolean; signal?: AbortSignal }): Promise<number[]>;
  detokenize(ids: Iterable<number>, options?: { keepSpecial?: boolean; signal?: AbortSignal }): Promise<string>;
  /** The tokens of a conversation's prompt. */
  prompt(messages: Message[], options?: ConversationOptions & { signal?: AbortSignal }): Promise<number[]>;
  /** The logits of the token that comes after `ids`. */
  logits(ids: Iterable<number>, options?: { signal?: AbortSignal }): Promise<Float32Array>;
  /** Ends the worker, which gives all memory back. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
  /** The models in this browser's cache. */
  static cached(): Promise<{ url: string; size: number; sha256: string | null }[]>;
  /** Forgets one; whether it was there. */
  static evict(url: string | URL): Promise<boolean>;
}
