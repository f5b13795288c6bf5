// The files of a model, wherever they are: { name, size, read(offset, length, take) } of each, where `take` gets bytes and how far behind
// the offset they begin.

import * as cache from "./cache.js";
import { SherryError } from "./errors.js";

// Beside config.json and the weights.
const COMPANIONS = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"];
const PIECE = 8 << 20; // of a large tensor

const ofBlob = (name, blob) => ({
  name, size: blob.size,
  async read(offset, length, take) {
    for (let at = 0; at < length; at += PIECE) {
      const end = Math.min(length, at + PIECE);
      let bytes;
      try { bytes = new Uint8Array(await blob.slice(offset + at, offset + end).arrayBuffer()); } catch (error) {
        throw new SherryError("model", `${name} cannot be read: ${error.message}`, { cause: error });
      }
      if (bytes.length !== end - at) throw new SherryError("model", `${name} is shorter than it was.`);
      take(bytes, at);
    }
  },
});

/// A file of this machine, under Node.
async function ofPath(url) {
  const { open } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises");
  const file = await open(url).catch((error) => { throw Object.assign(new SherryError("network", `${url}: ${error.message}`, { cause: error }), { status: error.code === "ENOENT" ? 404 : 0 }); });
  const { size } = await file.stat();
  return {
    name: baseName(url), size, close: () => file.close(),
    async read(offset, length, take) {
      const bytes = new Uint8Array(Math.min(length, PIECE));
      for (let at = 0; at < length;) {
        const { bytesRead } = await file.read(bytes, 0, Math.min(bytes.length, length - at), offset + at);
        if (!bytesRead) throw new SherryError("model", `${url} is shorter than it was.`);
        take(bytes.subarray(0, bytesRead), at);
        at += bytesRead;
      }
    },
  };
}

export const baseName = (url) => decodeURIComponent(new URL(url).pathname.split("/").pop());

async function ofUrl(url, { use, sha256, signal, progress }) {
  if (new URL(url).protocol === "file:") return ofPath(new URL(url));
  const kept = use === "opfs" ? await cache.find(url, sha256) : null;
  if (kept) { progress("cache", kept.size, kept.size); return ofBlob(baseName(url), kept); }
  const how = { sha256, signal, progress: (done, total) => progress("download", done, total) };
  if (use === "opfs" && cache.available()) {
    try { return ofBlob(baseName(url), await cache.download(url, how)); } catch (error) {
      // Another tab downloads the same, or the browser keeps nothing.
      if (!["NoModificationAllowedError", "SecurityError", "InvalidStateError"].includes(error.name)) throw error;
    }
  }
  return ofBlob(baseName(url), await cache.intoMemory(url, how));
}

/// A file that may be missing.
const perhaps = (promise) => promise.catch((error) => { if (error.status === 404 || error.status === 403) return null; throw error; });

async function ofFolder(url, options) {
  const at = (name) => ofUrl(new URL(name, url).href, { ...options, sha256: null });
  const found = [await at("config.json")];
  for (const file of await Promise.all(COMPANIONS.map((name) => perhaps(at(name))))) if (file) found.push(file);
  if (!found.some((file) => file.name === "tokenizer.json")) found.push(await at("tokenizer.model"));
  const single = await perhaps(ofUrl(new URL("model.safetensors", url).href, options));
  if (single) return [...found, single];
  const index = await at("model.safetensors.index.json");
  const text = [];
  await index.read(0, index.size, (bytes) => text.push(bytes.slice()));
  const map = JSON.parse(await new Blob(text).text()).weight_map ?? {};
  for (const name of new Set(Object.values(map))) {
    if (typeof name !== "string" || /[/\\:]/.test(name)) throw new SherryError("model", `${index.name}: '${name}' is no name of a file.`);
    found.push(await at(name));
  }
  return [...found, index];
}

/// The files of `source`: a URL of a GGUF file or of a folder, a blob, or names with blobs and URLs.
export async function filesOf(source, options) {
  if (typeof source === "string") {
    const isFile = /\.gguf$/i.test(new URL(source).pathname);
    return isFile ? [await ofUrl(source, options)] : ofFolder(source.replace(/\/?$/, "/"), options);
  }
  if (source instanceof Blob) return [ofBlob(source.name ?? "model.gguf", source)];
  return Promise.all(Object.entries(source).map(async ([name, one]) => ({ ...(typeof one === "string" ? await ofUrl(one, options) : ofBlob(name, one)), name })));
}
