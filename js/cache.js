// Models that were downloaded, in the browser's private file system. A file is `KEY.part` until its length, and its checksum if one was
// given, are right, and `KEY` from then on; `KEY.json` beside it says what it is. That a file exists never means that it is whole.

import { SherryError, aborted } from "./errors.js";
import { Sha256 } from "./sha256.js";

const FOLDER = "sherry-models";

const folder = async () => (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true });
const absent = (error) => { if (error.name === "NotFoundError") return null; throw error; };
const key = (url) => new Sha256().update(new TextEncoder().encode(url)).hex();

/// Whether there is such a file system, and it can rename.
export const available = () => typeof navigator !== "undefined" && typeof navigator.storage?.getDirectory === "function"
  && typeof FileSystemFileHandle !== "undefined" && typeof FileSystemFileHandle.prototype.move === "function";

async function meta(place, name) {
  const handle = await place.getFileHandle(`${name}.json`).catch(absent);
  try { return handle && JSON.parse(await (await handle.getFile()).text()); } catch { return null; }
}

async function writeMeta(place, name, value) {
  const handle = await place.getFileHandle(`${name}.json`, { create: true });
  const file = await handle.createSyncAccessHandle();
  try {
    const bytes = new TextEncoder().encode(JSON.stringify(value));
    file.truncate(0);
    file.write(bytes, { at: 0 });
    file.flush();
  } finally { file.close(); }
}

/// The whole file of `url`, or null.
export async function find(url, sha256 = null) {
  if (!available()) return null;
  const place = await folder();
  const name = key(url);
  const about = await meta(place, name);
  const handle = about?.size >= 0 ? await place.getFileHandle(name).catch(absent) : null;
  const file = await handle?.getFile();
  if (file?.size !== about?.size || !file) return null;
  if (sha256 && about.sha256 !== sha256.toLowerCase()) return null;
  return file;
}

/// What is whole: { url, size, sha256 } of each.
export async function list() {
  if (!available()) return [];
  const place = await folder();
  const found = [];
  for await (const [name, handle] of place.entries()) {
    if (/\.(json|part)$/.test(name)) continue;
    const about = await meta(place, name);
    if (about && (await handle.getFile()).size === about.size) found.push({ url: about.url, size: about.size, sha256: about.sha256 ?? null });
  }
  return found;
}

/// Forgets `url`, what was begun of it included. Whether there was something.
export async function evict(url) {
  if (!available()) return false;
  const place = await folder();
  const name = key(url);
  const removed = await Promise.all([name, `${name}.part`, `${name}.json`].map((file) => place.removeEntry(file).then(() => true, absent)));
  return removed.some(Boolean);
}

/// Downloads `url` into the file system, from where an earlier attempt ended, and gives the file.
export async function download(url, { sha256 = null, signal, progress }) {
  const place = await folder();
  const name = key(url);
  const before = await meta(place, name);
  const handle = await place.getFileHandle(`${name}.part`, { create: true });
  const file = await handle.createSyncAccessHandle();
  try {
    let at = before?.part ? file.getSize() : 0;
    const begin = (headers) => request(url, { headers, signal });
    let answer = await begin(at ? { Range: `bytes=${at}-`, "If-Range": before.part } : {});
    if (answer.status === 416) answer = await begin({});
    // What follows the part that is there, or everything.
    if (answer.status !== 206 || !new RegExp(`^bytes ${at}-`).test(answer.headers.get("Content-Range") ?? "")) {
      if (answer.status === 206) answer = await begin({});
      at = 0;
    }
    const rest = length(answer);
    const total = rest === null ? null : at + rest;
    // Only what is certainly the same file may go on later.
    const part = strong(answer.headers.get("ETag")) ?? answer.headers.get("Last-Modified");
    file.truncate(at);
    await writeMeta(place, name, { url, part });
    const digest = sha256 ? new Sha256() : null;
    for (let from = 0; digest && from < at; from += 1 << 20) {
      const piece = new Uint8Array(Math.min(1 << 20, at - from));
      file.read(piece, { at: from });
      digest.update(piece);
    }
    for await (const bytes of pieces(answer, signal)) {
      if (file.write(bytes, { at }) !== bytes.length) throw new SherryError("memory", `There is no room on this device for ${url}.`);
      digest?.update(bytes);
      at += bytes.length;
      progress(at, total);
    }
    if (total !== null && at !== total) throw new SherryError("network", `${url} ended after ${at} of ${total} bytes.`);
    file.flush();
    const found = digest?.hex() ?? null;
    if (found && found !== sha256.toLowerCase()) {
      file.truncate(0);
      throw new SherryError("network", `${url} has the SHA-256 ${found}, expected ${sha256}.`);
    }
    file.close();
    await writeMeta(place, name, { url, size: at, sha256: found });
    await handle.move(name);
    return (await place.getFileHandle(name)).getFile();
  } catch (error) {
    throw error.name === "QuotaExceededError" ? new SherryError("memory", `There is no room on this device for ${url}.`, { cause: error }) : error;
  } finally { file.close(); }
}

const strong = (tag) => (tag?.startsWith("W/") ? null : tag);

/// Bytes of the body, where that is known: what is compressed on the way has another length.
function length(answer) {
  const value = answer.headers.get("Content-Length");
  return value === null || (answer.headers.get("Content-Encoding") ?? "identity") !== "identity" ? null : Number(value);
}

/// `fetch`, whose failures have names.
export async function request(url, { signal, ...options } = {}) {
  let answer;
  try { answer = await fetch(url, { ...options, signal }); } catch (error) {
    if (signal?.aborted) throw aborted(signal.reason);
    throw new SherryError("network", `${url} cannot be reached: ${error.message}`, { cause: error });
  }
  if (!answer.ok && answer.status !== 416) {
    throw Object.assign(new SherryError("network", `${url}: status ${answer.status}`), { status: answer.status });
  }
  return answer;
}

/// The body of an answer, in pieces.
export async function* pieces(answer, signal) {
  const reader = answer.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (signal?.aborted) throw aborted(signal.reason);
    throw new SherryError("network", `${answer.url} broke off: ${error.message}`, { cause: error });
  } finally { reader.cancel().catch(() => {}); }
}

/// The body of `url` in the memory of the browser.
export async function intoMemory(url, { sha256 = null, signal, progress }) {
  const answer = await request(url, { signal });
  const total = length(answer);
  const digest = sha256 ? new Sha256() : null;
  const kept = [];
  let at = 0;
  for await (const bytes of pieces(answer, signal)) {
    kept.push(bytes);
    digest?.update(bytes);
    at += bytes.length;
    progress(at, total);
  }
  if (total !== null && at !== total) throw new SherryError("network", `${url} ended after ${at} of ${total} bytes.`);
  const found = digest?.hex();
  if (found && found !== sha256.toLowerCase()) throw new SherryError("network", `${url} has the SHA-256 ${found}, expected ${sha256}.`);
  return new Blob(kept);
}
