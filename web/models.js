// Which model the page talks to: the one inside it, one at an address, or files of this device.

import * as server from "./server.js";
import { Sherry } from "./sherry/index.js";
import { browser } from "./talks.js";
import { button, bytes, node } from "./view.js";

const $ = (id) => document.getElementById(id);
const REMEMBERED = "model";

let control = null;

/// How far it is, below the title.
function show({ stage, loaded, total } = {}) {
  const line = $("loading");
  line.hidden = stage === undefined;
  if (line.hidden) return;
  const verbs = { download: "Downloading", cache: "Found in this browser", prepare: "Preparing" };
  $("loading-text").textContent = total ? `${verbs[stage]}: ${bytes(loaded)} of ${bytes(total)}` : `${verbs[stage]} ${bytes(loaded)}`;
  $("loading-bar").max = total ?? 1;
  if (total) $("loading-bar").value = loaded; else $("loading-bar").removeAttribute("value");
}

function problem(text) {
  $("model-problem").textContent = text;
  if (text && !$("settings").open) { $("settings").showModal(); $("model-url").focus(); }
}

async function take(wanted, remember = null) {
  control?.abort();
  const mine = control = new AbortController();
  problem("");
  try {
    await server.choose(wanted, { signal: mine.signal, onProgress: (progress) => { if (control === mine) show(progress); } });
    browser.set(REMEMBERED, remember);
    if ($("settings").open) $("settings").close();
  } catch (error) {
    if (error.name !== "AbortError") problem(`${error.message} The small model is back.`);
  } finally {
    if (control === mine) { control = null; show(); }
    await describe();
  }
}

const ofUrl = (url, name) => ({ source: url, ...(name && { name }) });

function ofFiles(files) {
  const list = [...files];
  const gguf = list.filter((file) => /\.gguf$/i.test(file.name));
  if (list.length === 1 || (gguf.length && !list.some((file) => file.name === "config.json"))) return { source: gguf.length > 1 ? { files: gguf } : gguf[0] ?? list[0] };
  return { source: { files: list.filter((file) => /\.(json|safetensors|jinja|model|txt)$/.test(file.name)) }, name: folderOf(list) };
}
const folderOf = (list) => list.find((file) => file.webkitRelativePath)?.webkitRelativePath.split("/")[0] ?? "model";

/// The models that were downloaded, each with a way to use and to forget it, and how much memory is in use.
async function describe() {
  $("memory").textContent = `Memory in use: ${bytes(server.memory())}`;
  $("cached").replaceChildren(...kept(await Sherry.cached().catch(() => [])).map(({ url, size, files }) => {
    const name = decodeURIComponent(new URL(url).pathname.replace(/\/$/, "").split("/").pop()) || url;
    const text = `${name} · ${bytes(size)}`;
    return node("li", {},
      button(text, () => take(ofUrl(url), url), { label: `${text}: ${url}`, className: "quiet" }),
      button("Forget", async () => { await Promise.all(files.map((file) => Sherry.evict(file))); await describe(); }, { label: `Forget ${name}`, className: "quiet" }));
  }));
}

/// The files of a folder are one model.
function kept(list) {
  const folderOf = (url) => url.slice(0, url.lastIndexOf("/") + 1);
  const folders = new Set(list.filter(({ url }) => url.endsWith("/config.json")).map(({ url }) => folderOf(url)));
  const models = new Map();
  for (const { url, size } of list) {
    const name = folders.has(folderOf(url)) && !/\.gguf$/i.test(url) ? folderOf(url) : url;
    const model = models.get(name) ?? { url: name, size: 0, files: [] };
    model.size += size;
    model.files.push(url);
    models.set(name, model);
  }
  return [...models.values()];
}

$("model-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const url = $("model-url").value.trim();
  if (url) take(ofUrl(new URL(url, document.baseURI).href), new URL(url, document.baseURI).href);
});
$("model-file").addEventListener("change", () => { if ($("model-file").files.length) take(ofFiles($("model-file").files)); $("model-file").value = ""; });
$("model-pick").addEventListener("click", () => $("model-file").click());
$("model-inside").addEventListener("click", () => { control?.abort(); take({ source: new URL("sherry-tiny.gguf", document.baseURI).href, name: "sherry-tiny", cache: "none" }); });
$("loading-stop").addEventListener("click", () => control?.abort());
$("settings-button").addEventListener("click", describe);

// Files dropped anywhere, and the files of a folder that is.
addEventListener("dragover", (event) => { if (event.dataTransfer?.types.includes("Files")) { event.preventDefault(); document.body.classList.add("dropping"); } });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", async (event) => {
  document.body.classList.remove("dropping");
  if (!event.dataTransfer?.files.length) return;
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  const entry = event.dataTransfer.items?.[0]?.webkitGetAsEntry?.();
  if (!entry?.isDirectory) return take(ofFiles(files));
  const reader = entry.createReader();
  const inside = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    inside.push(...await Promise.all(some.filter((one) => one.isFile).map((one) => new Promise((resolve, reject) => one.file(resolve, reject)))));
  }
  take({ ...ofFiles(inside), name: entry.name });
});

// The page works without its server from the second visit on.
if ("serviceWorker" in navigator && /^https?:$/.test(location.protocol)) navigator.serviceWorker.register("offline.js").catch(() => { /* a page without it is a page online */ });

const last = browser.get(REMEMBERED);
if (last) take(ofUrl(last), last); else server.begin(null, { onProgress: show }).catch((error) => problem(error.message)).finally(() => { show(); describe(); });
