// Puts the page together: node web/build.mjs [FOLDER]. It is the server's page, with a worker in place of the server and a way to choose
// models. The folder (target/web) can be served from anywhere, under any path; js/build comes first.

import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = new URL("../", import.meta.url);
const out = new URL(`${process.argv[2] ? new URL(process.argv[2], `file://${process.cwd()}/`).href : new URL("target/web", root).href}/`.replace(/\/+$/, "/"));
const at = (path) => new URL(path, root);
const read = (path) => readFileSync(at(path), "utf8");

/// `text` with one thing in place of another, which must be there.
function put(text, old, fresh) {
  if (!text.includes(old)) throw new Error(`the page has no longer: ${old}`);
  return text.replace(old, () => fresh);
}

rmSync(out, { recursive: true, force: true });
mkdirSync(new URL("sherry/", out), { recursive: true });

const page = "crates/server/src/page/";
const files = {
  ...Object.fromEntries(["app.js", "talks.js", "view.js", "markdown.js", "highlight.js", "style.css", "favicon.svg"].map((name) => [name, page + name])),
  ...Object.fromEntries(["server.js", "models.js", "models.css"].map((name) => [name, `web/${name}`])),
  ...Object.fromEntries(["index.js", "errors.js", "worker.js", "module.js", "files.js", "cache.js", "sha256.js", "sherry.wasm"].map((name) => [`sherry/${name}`, `js/${name}`])),
  // For servers that isolate the page.
  ...(existsSync(at("js/sherry-threads.wasm")) && { "sherry/sherry-threads.wasm": "js/sherry-threads.wasm" }),
  "sherry-tiny.gguf": "crates/cli/model/sherry-tiny.gguf",
};
for (const [name, from] of Object.entries(files)) copyFileSync(at(from), new URL(name, out));

// Nothing runs but the page's own scripts; models may come from anywhere.
const POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; worker-src 'self'; "
  + "connect-src 'self' https: http: blob: data:; base-uri 'none'; form-action 'none'";
let html = read(`${page}index.html`);
html = put(html, "Chat with the model that this server runs", "Chat with a language model that runs in this page");
html = put(html, '<meta name="viewport"', `<meta http-equiv="Content-Security-Policy" content="${POLICY}">\n<meta name="viewport"`);
html = put(html, '<script type="module" src="app.js"', '<link rel="stylesheet" href="models.css">\n<script type="module" src="models.js"></script>\n<script type="module" src="app.js"');
html = put(html, '<div id="status" role="status"></div>', `<div id="status" role="status"></div>
    <div id="loading" role="group" aria-label="Loading a model" hidden><span id="loading-text"></span><progress id="loading-bar" aria-label="Progress"></progress><button id="loading-stop" type="button" class="quiet">Stop</button></div>`);
html = put(html, '      <dl id="facts"></dl>', `${read("web/models.html")}      <dl id="facts"></dl>`);
// Here it is what people come to the settings for.
const section = /    <section aria-labelledby="model-title">[^]*?<\/section>\n/.exec(html)?.[0] ?? "";
html = put(put(html, section, ""), '    <section id="key-section"', `${section}    <section id="key-section"`);
writeFileSync(new URL("index.html", out), html);

const names = ["./", "index.html", ...Object.keys(files)];
const hash = createHash("sha256");
for (const name of names.slice(1)) hash.update(name).update(readFileSync(new URL(name, out)));
const version = `sherry-page-${hash.digest("hex").slice(0, 16)}`;
writeFileSync(new URL("offline.js", out), put(put(read("web/offline.js.in"), "@VERSION@", version), "@FILES@", JSON.stringify(names)));
console.log(`${fileURLToPath(out)}: ${names.length} files, ${version}`);
