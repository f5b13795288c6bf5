// The whole interface as a program of TypeScript uses it, and uses that the compiler must refuse: each `@ts-expect-error` without
// an error behind it is one. It is compiled, never run.

import { Sherry, SherryError } from "@sherry-llm/web";
import type {
  ChatChunk, ChatCompletion, ConversationOptions, GenerateOptions, Info, LoadOptions, Message, Piece, Progress, Sampling, Source,
  Timings, Usage,
} from "@sherry-llm/web";

declare const file: File;
declare const control: AbortController;

const sources: Source[] = [
  "https://example.org/model.gguf", new URL("https://example.org/folder/"), file, new Blob(), new ArrayBuffer(8), new Uint8Array(8),
  { files: [file] }, { files: { "config.json": new Blob(), "model.safetensors": "https://example.org/model.safetensors" } },
];
const sampling: Sampling = {
  maxTokens: 10, temperature: 0.7, topP: 0.9, topK: 40, minP: 0.05, repetitionPenalty: 1.1, repetitionWindow: 64, presencePenalty: 0.1,
  frequencyPenalty: 0.1, seed: 3n, stop: ["\n\n"],
};
const generating: GenerateOptions = {
  ...sampling, seed: 3, stop: "\n", signal: control.signal, onPrompt: ({ done, total, cached }) => done + total + cached,
};
const talking: ConversationOptions = { tools: [{}], documents: [{}], continueFinalMessage: true, variables: { enable_thinking: false } };
const messages: Message[] = [
  { role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text: "Hello" }] }, { role: "tool", content: "1", name: "x" },
];

async function whole(): Promise<void> {
  const loading: LoadOptions = {
    context: 512, threads: "auto", signal: control.signal, cache: "opfs", sha256: "00", kv: "q8", name: "mine",
    wasmUrl: new URL("https://example.org/sherry.wasm"), threadedWasmUrl: "threads.wasm", workerUrl: "worker.js",
    onProgress: ({ stage, loaded, total }: Progress) => `${stage satisfies "download" | "cache" | "prepare"} ${loaded} ${total?.toFixed()}`,
  };
  await using model: Sherry = await Sherry.load(sources[0]!, loading);
  const info: Readonly<Info> = model.info;
  const numbers: number[] = [
    info.vocab, info.layers, info.hidden, info.context, info.trainedContext, info.parameters, info.bytes, info.bitsPerWeight, info.memory, info.threads,
  ];
  const words: string[] = [info.name, info.description, String(info.canChat satisfies boolean)];

  for await (const piece of model.generate("Once", generating)) {
    const { text, tokens, finish, usage, timings }: Piece = piece;
    words.push(text, finish satisfies "stop" | "length" | "context" | "cancelled" | undefined ?? "");
    numbers.push(...tokens, usage?.prompt_tokens_details.cached_tokens ?? 0, timings?.memory ?? 0);
  }
  for await (const piece of model.generate([1, 2, 3])) words.push(piece.text);
  for await (const chunk of model.chat(messages, { ...generating, ...talking, stream: true })) {
    const one: ChatChunk = chunk;
    words.push(one.id, one.object, one.model, one.choices[0]?.delta.content ?? "", one.choices[0]?.finish_reason ?? "");
    numbers.push(one.created, one.usage?.total_tokens ?? 0);
  }
  const answer: ChatCompletion = await model.chat(messages, { maxTokens: 4 });
  const usage: Usage = answer.usage;
  const timings: Timings = answer.timings;
  words.push(answer.choices[0]!.message.content);
  numbers.push(usage.completion_tokens, timings.prompt_ms, timings.predicted_per_second, timings.prompt_per_second, timings.predicted_ms);

  const ids: number[] = await model.tokenize("Hello", { addSpecial: true, parseSpecial: false, signal: control.signal });
  words.push(await model.detokenize(ids, { keepSpecial: true }));
  numbers.push(...await model.prompt(messages, { ...talking, signal: control.signal }));
  const logits: Float32Array = await model.logits(ids, { signal: control.signal });
  for (const { url, size, sha256 } of await Sherry.cached()) words.push(url, `${size + logits.length}`, sha256 ?? "");
  const gone: boolean = await Sherry.evict(new URL("https://example.org/model.gguf"));
  if (!gone) await model.close();
}

whole().catch((error: unknown) => {
  if (error instanceof SherryError) {
    const code: "invalid" | "model" | "network" | "memory" | "context" | "crashed" | "closed" = error.code;
    console.error(code, error.message);
  }
});

export async function wrong(model: Sherry): Promise<void> {
  // @ts-expect-error: models are loaded, not made
  new Sherry();
  // @ts-expect-error: a number is no model
  await Sherry.load(3);
  // @ts-expect-error: no such cache
  await Sherry.load("x", { cache: "disk" });
  // @ts-expect-error: no such option
  await Sherry.load("x", { contxt: 3 });
  // @ts-expect-error: no such type of keys and values
  await Sherry.load("x", { kv: "q2" });
  // @ts-expect-error: a text is no number
  model.generate("x", { maxTokens: "3" });
  // @ts-expect-error: an option of chats
  model.generate("x", { tools: [] });
  // @ts-expect-error: a message has a role
  await model.chat([{ content: "x" }]);
  // @ts-expect-error: without `stream` there is one answer and nothing to go through
  for await (const chunk of model.chat(messages)) console.log(chunk);
  // @ts-expect-error: with it there is nothing to wait for
  (await model.chat(messages, { stream: true })).choices;
  // @ts-expect-error: pieces have texts, not contents
  for await (const piece of model.generate("x")) console.log(piece.content);
  // @ts-expect-error: what a model is does not change
  model.info.context = 3;
  // @ts-expect-error: tokens are numbers
  await model.detokenize(["x"]);
  // @ts-expect-error: no such code
  if (new SherryError().code === "network error") return;
}
