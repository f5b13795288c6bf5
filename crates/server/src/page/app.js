// The chat page: conversations in this browser, answers as they are written. Talks to its own origin only.

import { Growing, render } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

// ---- Conversations: IndexedDB, or memory where a private window has none -------------------------------------------

const store = {
  memory: new Map(),
  db: null,
  async open() {
    try {
      this.db = await new Promise((resolve, reject) => {
        const request = indexedDB.open("sherry", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    } catch { $("private").hidden = false; }
  },
  run(mode, action) {
    return new Promise((resolve, reject) => {
      const request = action(this.db.transaction("conversations", mode).objectStore("conversations"));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  },
  async all() { return this.db ? this.run("readonly", (s) => s.getAll()) : [...this.memory.values()]; },
  async put(talk) {
    try { if (this.db) await this.run("readwrite", (s) => s.put(talk)); else this.memory.set(talk.id, talk); }
    catch (error) { say(`This conversation could not be kept: ${error.message}`, { bad: true }); }
  },
  async remove(id) { if (this.db) await this.run("readwrite", (s) => s.delete(id)); else this.memory.delete(id); },
};

const saved = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { value === null ? localStorage.removeItem(name) : localStorage.setItem(name, value); } catch { /* private window */ } },
};
const session = {
  get(name) { try { return sessionStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(name, value); } catch { /* private window */ } },
};

let talks = [];
let talk = null; // { id, title, system, messages: [{ role, content, stats }], changed }
let props = null;
let running = null; // AbortController of the answer that is being written
let busy = false; // an answer is being written into `talk`

// ---- Small pieces ----------------------------------------------------------------------------------------------------

function node(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const button = (text, label, action) => {
  const element = node("button", { type: "button", textContent: text, title: label });
  element.setAttribute("aria-label", label);
  element.addEventListener("click", action);
  return element;
};
const number = (value, digits = 1) => value.toLocaleString(undefined, { maximumFractionDigits: digits });
const bytes = (value) => value >= 1e9 ? `${number(value / 1e9, 2)} GB` : `${number(value / 1e6)} MB`;

function say(text, { bad = false, action = null } = {}) {
  const box = $("status");
  box.className = bad ? "bad" : "";
  box.replaceChildren(text);
  if (action) box.append(button(action.text, action.text, () => { box.replaceChildren(); action.run(); }));
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code ?? "";
    this.detail = error ?? {};
  }
}

// ---- The server ------------------------------------------------------------------------------------------------------

async function connect() {
  for (let wait = 500; ; wait = Math.min(wait * 1.5, 5000)) {
    try {
      const health = await fetch("health");
      if (health.ok) break;
      say("The model is loading …");
    } catch { say("The server does not answer. Trying again …", { bad: true }); }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
  const answer = await fetch("props", { headers: headers() });
  if (answer.status === 401) return askForKey();
  if (!answer.ok) return say(`The server answered ${answer.status}.`, { bad: true });
  props = await answer.json();
  say("");
  describe();
  show();
}

function askForKey() {
  $("key-field").hidden = $("remember-field").hidden = false;
  toggleSettings(true);
  $("key").focus();
  say("This server wants an API key. Enter it in the settings.", { bad: true });
}

function describe() {
  const { model, defaults, engine } = props;
  $("model").textContent = `${model.id} · ${number(model.parameters / 1e6, 0)} M parameters · ${number(model.bits_per_weight, 2)} bits per weight`;
  document.title = `${model.id} · Sherry`;
  for (const name of FIELDS) if (defaults[name] !== undefined && name !== "seed" && name !== "max_tokens") $(name).placeholder = defaults[name];
  const facts = [
    ["Model", model.id], ["Size", bytes(model.bytes)], ["Bits per weight", number(model.bits_per_weight, 2)],
    ["Context", `${number(model.context, 0)} tokens`], ["Instructions", engine.isa], ["Threads", engine.threads], ["Cache", engine.kv], ["Version", props.version],
  ];
  $("facts").replaceChildren(...facts.map(([name, value]) => node("div", {}, node("dt", { textContent: name }), node("dd", { textContent: value }))));
  const base = !props.has_chat_template;
  $("system-field").hidden = base;
  $("input").placeholder = base ? "The beginning of a text" : "Ask something";
  $("input-label").textContent = base ? "Beginning of a text" : "Message";
  $("send").textContent = base ? "Continue" : "Send";
}

/// Events of a stream: calls `each` with every JSON value; throws on an error event.
async function stream(path, body, signal, each) {
  const answer = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Refusal(answer.status, (await answer.json().catch(() => null))?.error);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value ?? new Uint8Array(), { stream: !done });
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const data = event.slice(6);
      if (data === "[DONE]") return;
      const value = JSON.parse(data);
      if (value.error) throw new Refusal(500, value.error);
      each(value);
    }
    if (done) throw new Error("the answer broke off");
  }
}

function sampling(again) {
  const body = {};
  for (const name of FIELDS) {
    const value = $(name).value.trim();
    if (value !== "" && Number.isFinite(Number(value))) body[name] = Number(value);
  }
  if (again !== undefined) body.seed = again;
  return body;
}

async function answer({ seed } = {}) {
  if (busy) return;
  const mine = talk;
  const base = !props.has_chat_template;
  const asked = mine.messages.length;
  let reply = { role: "assistant", content: "" };
  mine.messages.push(reply);
  running = new AbortController();
  setBusy(true);
  const view = messageView(reply, mine.messages.length - 1);
  $("messages").append(view.element);
  view.body.classList.add("cursor");
  follow(true);
  const growing = base ? null : new Growing(view.body);
  const began = performance.now();
  let first = 0;
  let last = null;
  let drawn = 0;
  const draw = () => {
    drawn = 0;
    const stay = atEnd();
    if (growing) growing.update(reply.content); else view.body.lastChild.textContent = reply.content;
    if (stay) follow();
  };
  try {
    const common = { stream: true, stream_options: { include_usage: true }, return_progress: true, ...sampling(seed) };
    const history = mine.messages.slice(0, asked).map(({ role, content }) => ({ role, content }));
    const body = base
      ? { ...common, prompt: history.map((message) => message.content).join(""), max_tokens: common.max_tokens ?? 256 }
      : { ...common, messages: mine.system ? [{ role: "system", content: mine.system }, ...history] : history };
    await stream(base ? "v1/completions" : "v1/chat/completions", body, running.signal, (event) => {
      const progress = event.prompt_progress;
      if (progress) say(progress.queue ? `Waiting: ${progress.queue} before this one …` : progress.processed < progress.total ? `Reading the prompt: ${progress.processed} of ${progress.total} tokens …` : "");
      const choice = event.choices?.[0];
      const text = base ? choice?.text : choice?.delta?.content;
      if (text) {
        if (!first) { first = performance.now(); say(""); }
        reply.content += text;
        drawn ||= requestAnimationFrame(draw);
      }
      if (choice?.finish_reason) reply.finish = choice.finish_reason;
      if (event.usage || event.timings) last = { ...last, ...event };
    });
  } catch (error) {
    if (error.name === "AbortError") reply.finish = "stopped";
    else explain(error, mine, asked);
  } finally {
    cancelAnimationFrame(drawn);
    if (last?.usage) {
      const { usage, timings = {}, sherry = {} } = last;
      reply.stats = {
        prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details?.cached_tokens ?? 0, generated: usage.completion_tokens,
        promptRate: timings.prompt_per_second, rate: timings.predicted_per_second, first: first ? first - began : 0, seed: sherry.seed,
      };
    }
    if (!reply.content && !reply.stats) mine.messages.splice(mine.messages.indexOf(reply), 1);
    running = null;
    setBusy(false);
    mine.changed = Date.now();
    await store.put(mine);
    if (talk === mine) show();
  }
}

function explain(error, mine, asked) {
  if (error instanceof Refusal && error.status === 401) return askForKey();
  if (error.code === "context_length_exceeded") {
    const turns = mine.messages.slice(0, asked).findIndex((message, index) => index > 0 && message.role === "user");
    const action = turns > 0 ? { text: "Forget the oldest turn and try again", run: () => { mine.messages.splice(0, turns); show(); answer(); } } : null;
    return say(`The conversation is longer than the model can read (${error.detail.n_prompt_tokens ?? "?"} of ${error.detail.n_ctx ?? "?"} tokens).`, { bad: true, action });
  }
  if (error instanceof Refusal && error.status === 503) return say(`The server is busy: ${error.message}.`, { bad: true, action: { text: "Try again", run: () => answer() } });
  if (error instanceof Refusal) return say(error.message, { bad: true });
  say("The server went away in the middle of the answer.", { bad: true, action: { text: "Try again", run: async () => { await connect(); answer(); } } });
}

// ---- What is seen ------------------------------------------------------------------------------------------------------

const atEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 60;
const follow = () => { $("scroll").scrollTop = $("scroll").scrollHeight; };

function setBusy(value) {
  busy = value;
  $("stop").hidden = !value;
  $("send").hidden = value;
  // The log is announced when an answer is complete, not token by token.
  $("messages").setAttribute("aria-busy", String(value));
}

function messageView(message, index) {
  const user = message.role === "user";
  const base = props && !props.has_chat_template;
  const element = node("article", { className: user ? "user" : "assistant" });
  const body = node("div", { className: "body", dir: "auto" });
  if (base) {
    element.className = "assistant";
    body.classList.add("continued");
    body.append(node("span", { className: user ? "given" : "", textContent: message.content }));
  } else if (user) body.textContent = message.content;
  else body.append(render(message.content));
  const who = base ? (user ? "Given" : props.model.id) : user ? "You" : props?.model.id ?? "Answer";
  const tools = node("div", { className: "tools" });
  tools.append(button("Copy", "Copy this message", () => navigator.clipboard?.writeText(message.content)));
  if (user) tools.append(button("Edit", "Edit this message and answer again", () => edit(element, message, index)));
  else if (index === talk.messages.length - 1) {
    tools.append(button("Regenerate", "Write this answer again", () => { if (!busy) { talk.messages.pop(); show(); answer(); } }));
    if (["length", "stopped"].includes(message.finish) && base) tools.append(button("Continue", "Go on with this text", () => { if (!busy) answer(); }));
    if (message.stats?.seed !== undefined) tools.append(button("Same seed", `Write it again with seed ${message.stats.seed}`, () => { if (!busy) { talk.messages.pop(); show(); answer({ seed: message.stats.seed }); } }));
  }
  if (message.finish === "stopped") tools.append(node("span", { textContent: "stopped" }));
  if (message.finish === "length") tools.append(node("span", { textContent: "cut at the most tokens" }));
  if (message.stats?.rate) {
    const { rate, promptRate, first, cached, generated } = message.stats;
    tools.append(node("span", { className: "numbers", textContent:
      `${number(generated, 0)} tokens · ${number(rate)} tok/s · prompt ${number(promptRate ?? 0, 0)} tok/s${cached ? `, ${number(cached, 0)} reused` : ""} · first after ${number(first / 1000, 2)} s` }));
  }
  element.append(node("p", { className: "who", textContent: who }), body, tools);
  return { element, body };
}

function edit(element, message, index) {
  if (busy) return;
  const area = node("textarea", { className: "edit", value: message.content, rows: Math.min(12, message.content.split("\n").length + 1) });
  area.setAttribute("aria-label", "Edited message");
  const save = async () => {
    // The former course of the conversation stays as one of its own.
    const former = { ...talk, id: crypto.randomUUID?.() ?? String(Math.random()), title: `${talk.title} (before an edit)`, messages: talk.messages.map((m) => ({ ...m })) };
    talks.push(former);
    await store.put(former);
    talk.messages = [...talk.messages.slice(0, index), { role: "user", content: area.value }];
    show();
    answer();
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); show(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); save(); }
  });
  element.replaceChildren(area, node("div", { className: "tools" }, button("Send", "Send the edited message", save), button("Cancel", "Keep the message as it was", show)));
  area.focus();
}

const SUGGESTIONS = {
  chat: ["Explain photosynthesis to a child", "Write a haiku about rain", "What is a hash table?"],
  base: ["Once upon a time", "The history of the city", "In the garden behind the house"],
};

function show() {
  const box = $("messages");
  $("title").textContent = talk.title;
  $("system").value = talk.system ?? "";
  box.replaceChildren(...talk.messages.map((message, index) => messageView(message, index).element));
  if (!talk.messages.length) {
    const base = props && !props.has_chat_template;
    const suggestions = (base ? SUGGESTIONS.base : SUGGESTIONS.chat).map((text) => button(text, text, () => { $("input").value = text; send(); }));
    box.append(node("div", { className: "empty" },
      node("strong", { textContent: base ? "Continue a text" : "What is on your mind?" }),
      base ? "This model continues texts; it was not made for conversation." : "Everything stays between this browser and this server.",
      node("div", { className: "suggestions" }, ...suggestions)));
  }
  meter();
  showList();
  follow();
}

function meter() {
  const stats = talk.messages.at(-1)?.stats;
  const used = stats ? stats.prompt + stats.generated : 0;
  const context = props?.model.context ?? 0;
  $("bar").hidden = !used || !context;
  $("meter").textContent = used && context ? `${number(used, 0)} of ${number(context, 0)} tokens of context used` : "Enter sends, Shift+Enter breaks the line";
  if (context) $("bar").firstElementChild.style.width = `${Math.min(100, 100 * used / context)}%`;
}

function showList() {
  talks.sort((a, b) => b.changed - a.changed);
  $("list").replaceChildren(...talks.filter((one) => one.messages.length || one === talk).map((one) => {
    const open = button("", `Open ${one.title}`, () => { if (!busy) { talk = one; say(""); show(); closeMenu(); } });
    open.className = "open";
    open.append(node("span", { textContent: one.title }));
    const rename = button("✎", `Rename ${one.title}`, async () => {
      const title = prompt("Name of this conversation", one.title)?.trim();
      if (title) { one.title = title.slice(0, 80); await store.put(one); show(); }
    });
    const remove = button("×", `Delete ${one.title}`, async () => {
      if (!confirm(`Delete "${one.title}"?`)) return;
      if (one === talk) running?.abort();
      talks = talks.filter((other) => other !== one);
      await store.remove(one.id);
      if (one === talk) fresh(); else showList();
    });
    rename.className = remove.className = "tool";
    const item = node("li", { className: one === talk ? "current" : "" }, open, rename, remove);
    if (one === talk) open.setAttribute("aria-current", "true");
    return item;
  }));
}

// ---- What is done ------------------------------------------------------------------------------------------------------

function fresh() {
  talk = { id: crypto.randomUUID?.() ?? String(Math.random()), title: "New conversation", system: "", messages: [], changed: Date.now() };
  talks = talks.filter((one) => one.messages.length);
  talks.push(talk);
  say("");
  show();
  closeMenu();
  $("input").focus();
}

function send() {
  const text = $("input").value;
  if (busy || !text.trim() || !props) return;
  if (!talk.messages.length) talk.title = text.trim().split("\n")[0].slice(0, 60);
  talk.system = $("system").value.trim();
  talk.messages.push({ role: "user", content: props.has_chat_template ? text.trim() : text });
  $("input").value = "";
  grow();
  show();
  answer();
}

const grow = () => { const area = $("input"); area.style.height = "auto"; area.style.height = `${area.scrollHeight + 2}px`; };
const toggleSettings = (open) => { $("settings").hidden = !open; $("settings-button").setAttribute("aria-expanded", String(open)); };
const closeMenu = () => { $("app").classList.remove("open"); $("menu").setAttribute("aria-expanded", "false"); };

function theme(value) {
  document.documentElement.dataset.theme = value;
  $("theme").textContent = value === "dark" ? "Light" : "Dark";
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => { if (!busy) fresh(); });
$("menu").addEventListener("click", () => {
  const open = $("app").classList.toggle("open");
  $("menu").setAttribute("aria-expanded", String(open));
  if (open) $("new").focus();
});
$("settings-button").addEventListener("click", () => toggleSettings($("settings").hidden));
$("system").addEventListener("change", () => { talk.system = $("system").value.trim(); store.put(talk); });
$("theme").addEventListener("click", () => {
  const value = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  saved.set("theme", value);
  theme(value);
});
for (const name of FIELDS) $(name).addEventListener("change", () => session.set(name, $(name).value));
$("key").addEventListener("change", () => {
  session.set("key", $("key").value);
  saved.set("key", $("remember").checked ? $("key").value : null);
  connect();
});
$("remember").addEventListener("change", () => saved.set("key", $("remember").checked ? $("key").value : null));
$("export").addEventListener("click", async () => {
  const url = URL.createObjectURL(new Blob([JSON.stringify({ format: "sherry-conversations-1", conversations: await store.all() }, null, 1)], { type: "application/json" }));
  node("a", { href: url, download: "sherry-conversations.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
$("import").addEventListener("change", async (event) => {
  try {
    const { format, conversations } = JSON.parse(await event.target.files[0].text());
    if (format !== "sherry-conversations-1") throw new Error("it is not an export of this page");
    for (const one of conversations) {
      const messages = one.messages.map(({ role, content, stats, finish }) => ({ role: String(role), content: String(content), stats, finish }));
      const kept = { id: String(one.id), title: String(one.title).slice(0, 80), system: String(one.system ?? ""), messages, changed: Number(one.changed) || Date.now() };
      talks = talks.filter((other) => other.id !== kept.id);
      talks.push(kept);
      await store.put(kept);
    }
    say(`${conversations.length} conversations imported.`);
    show();
  } catch (error) { say(`The file could not be imported: ${error.message}.`, { bad: true }); }
  event.target.value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { if (busy) running?.abort(); else { toggleSettings(false); closeMenu(); } }
  if (event.altKey && event.code === "KeyN") { event.preventDefault(); if (!busy) fresh(); }
});

theme(saved.get("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
for (const name of FIELDS) $(name).value = session.get(name) ?? "";
$("key").value = session.get("key") ?? saved.get("key") ?? "";
$("remember").checked = saved.get("key") !== null;
await store.open();
talks = (await store.all()).filter((one) => one.messages?.length);
fresh();
connect();
