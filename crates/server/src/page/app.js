// The chat page: what a person can do, and the answers that are being written. Talks to its own origin only.

import * as server from "./server.js";
import { add, browser, course, drop, exported, goThrough, imported, newTalk, sent, shorten, store, tab, versions } from "./talks.js";
import { SheetWriter, Writer, button, bytes, copy, editor, emptyView, facts, icon, listItem, messageView, node, number, parameters, problemView, sheetView } from "./view.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const BASE_TOKENS = 256; // of a continuation where nothing is said

let talks = [];
let talk = newTalk();
let props = null; // of the server; null until it is ready
let editing = null; // the message that is being changed, or "text"
let renaming = null;
const runs = new Map(); // conversation -> { control, reply, writer, begun, state } of the answer that is being written
const problems = new Map(); // conversation -> { text, steps }

const isBase = () => props !== null && !props.has_chat_template;

// ---- What is said -------------------------------------------------------------------------------------------------

/// For those who hear the page.
function announce(text) { $("announce").append(node("p", { textContent: text.slice(0, 1000) })); while ($("announce").childElementCount > 20) $("announce").firstChild.remove(); }

/// About the server, above everything.
function status(text, kind = "") {
  if ($("status").textContent === text) return;
  $("status").className = kind;
  $("status").replaceChildren(...(text ? [node("span", { textContent: text })] : []));
}

let fading = 0;
/// For a moment, with one step back.
function toast(text, action = null) {
  clearTimeout(fading);
  const hide = () => $("toast").replaceChildren();
  $("toast").replaceChildren(node("span", { textContent: text }), ...(action ? [button(action.text, () => { hide(); action.run(); }, { className: "quiet" })] : []));
  fading = setTimeout(hide, action ? 10_000 : 4000);
}

// ---- The server ---------------------------------------------------------------------------------------------------

let connecting = null;
/// Waits until the server is ready and says what it serves.
function connect() {
  connecting ??= reach().finally(() => { connecting = null; });
  return connecting;
}

async function reach() {
  for (let wait = 500; ; wait = Math.min(wait * 1.5, 5000)) {
    const state = await server.health();
    if (state === "ready") {
      try {
        props = await server.props();
        status("");
        describe();
        show();
        return;
      } catch (error) {
        if (error.status === 401) return askForKey();
        if (error instanceof server.Refusal && error.status !== 503) return status(error.message, "bad");
      }
    }
    if (state === "loading") status(server.words.loading, "busy");
    else status(server.words.gone, "bad");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

function askForKey(again = $("key").value !== "") {
  $("key-section").hidden = false;
  $("key-problem").textContent = again ? "The server does not take this key." : "";
  status(again ? "The server does not take this API key." : "This server wants an API key.", "bad");
  $("status").append(button("Enter the key", () => { openSettings(); $("key").focus(); }, { className: "quiet" }));
  openSettings();
  $("key").focus();
}

async function useKey() {
  const key = $("key").value.trim();
  $("key").value = key;
  if (!server.useKey(key)) { $("key-problem").textContent = "A key holds only letters, digits and signs of ASCII, without spaces."; return; }
  tab.set("key", key);
  browser.set("key", $("remember").checked ? key : null);
  $("key-problem").textContent = "";
  status("");
  await connect();
  if (props && !$("key-problem").textContent) $("settings").close();
}

// Where the model can be another one, without a server.
server.onChange?.(() => { props = null; show(); connect(); });

function describe() {
  const { model, defaults, engine } = props;
  $("model").textContent = `${model.id} · ${parameters(model.parameters)} · ${number(model.bits_per_weight, 2)} bits per weight`;
  for (const name of ["temperature", "top_p", "top_k", "min_p"]) $(name).placeholder = defaults[name] ?? "";
  $("max_tokens").placeholder = isBase() ? BASE_TOKENS : "no limit";
  $("facts").replaceChildren(...facts([
    ["Name", model.id], ["Parameters", parameters(model.parameters).replace(" parameters", "")], ["Size", bytes(model.bytes)], ["Bits per weight", number(model.bits_per_weight, 2)],
    ["Context", `${number(model.context, 0)} tokens`], ["Instruction set", engine.isa], ["Threads", String(engine.threads)], ["Type of the cache", engine.kv],
    ["Precision", engine.precision], ["Sherry", props.version],
  ]));
  $("system-section").hidden = isBase();
  $("input").placeholder = isBase() ? "The beginning of a text, or what comes next in it" : "Ask something";
  $("input-label").textContent = isBase() ? "Text" : "Message";
}

/// The settings as fields of a request.
function sampling() {
  const body = {};
  for (const name of FIELDS) {
    const value = $(name).value.trim();
    if (value !== "") body[name] = name === "seed" ? value : Number(value);
  }
  return body;
}

/// The first field that no request may have as it is.
const wrongField = () => FIELDS.map($).find((field) => !field.checkValidity());

// ---- Answers ------------------------------------------------------------------------------------------------------

async function save(mine) {
  mine.changed = Date.now();
  if (!talks.includes(mine)) talks.push(mine);
  try {
    await store.put(mine);
    channel?.postMessage(mine.id);
  } catch (error) { toast(`This conversation could not be kept: ${error.message}`); }
}

/// Writes an answer after the leaf, or more of `reply`.
async function answer(mine, { seed, reply = null } = {}) {
  if (runs.has(mine)) return;
  if (!props) { await connect(); if (!props || runs.has(mine)) return; }
  const field = wrongField();
  if (field) { openSettings(); field.reportValidity(); return; }
  const base = isBase();
  problems.delete(mine);
  const messages = sent(mine).map(({ role, content }) => ({ role, content }));
  const given = reply?.content ?? "";
  // Until it is done it counts as stopped: that is what it is for a page that is opened again.
  if (!reply) reply = add(mine, { role: "assistant", content: "", finish: "stopped" });
  reply.finish = "stopped";
  delete reply.stats;
  const options = { ...sampling(), ...(seed !== undefined && { seed }) };
  const body = base
    ? { max_tokens: BASE_TOKENS, ...options, prompt: messages.map((message) => message.content).join("") }
    : { ...options, messages: mine.system ? [{ role: "system", content: mine.system }, ...messages] : messages, ...(given && { continue_final_message: true }) };
  const run = { control: new AbortController(), reply, writer: null, state: [server.words.waiting], said: 0, drawn: 0, cost: 0, kept: performance.now() };
  runs.set(mine, run);
  const keeping = save(mine);
  show({ end: true });
  if (talk === mine) announce(base ? "The text is being continued." : "The answer is being written.");
  const begun = performance.now();
  let first = 0;
  let last = null;
  try {
    await server.stream(base ? "v1/completions" : "v1/chat/completions", body, run.control.signal, (event) => {
      const progress = event.prompt_progress;
      if (progress && !first) {
        wait(run, ...(progress.queue ? [`Waiting: ${progress.queue} before this one …`] : [`Reading the prompt: ${number(progress.processed, 0)} of ${number(progress.total, 0)} tokens …`, progress.processed / progress.total]));
      }
      const choice = event.choices?.[0];
      const text = base ? choice?.text : choice?.delta?.content;
      if (text) {
        if (!first) { first = performance.now(); wait(run, ""); }
        reply.content += text;
        draw(mine, run);
      }
      if (choice?.finish_reason) reply.finish = choice.finish_reason;
      if (event.usage) last = event;
    });
  } catch (error) {
    if (error.name !== "AbortError") explain(error, mine, seed);
  }
  clearTimeout(run.drawn);
  if (last) {
    const { usage, timings = {}, seed: used } = last;
    reply.stats = {
      prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details?.cached_tokens ?? 0, generated: usage.completion_tokens,
      promptRate: timings.prompt_per_second ?? 0, rate: timings.predicted_per_second ?? 0, first: first ? first - begun : 0,
      // The server tells seeds without a sign, and takes them with one.
      ...(used && { seed: String(BigInt.asIntN(64, BigInt(used))) }),
    };
    if (reply.finish === "length" && usage.total_tokens >= props.model.context) reply.finish = "full";
  }
  runs.delete(mine);
  if (!reply.content && !reply.stats) drop(mine, reply);
  await keeping;
  if (talks.includes(mine)) await save(mine);
  if (talk === mine) {
    run.writer?.update(reply.content);
    const rest = run.writer?.body.lastElementChild?.textContent ?? "";
    const inside = $("stop").contains(document.activeElement);
    show();
    if (inside) $("input").focus();
    if (reply.content) announce(`${rest} ${reply.finish === "stopped" ? "Stopped." : "The answer is complete."}`);
  } else showList();
}

function wait(run, ...state) { run.state = state; run.writer?.wait(...state); }

/// Draws what is new, as often as drawing leaves time for everything else.
function draw(mine, run) {
  if (run.drawn || talk !== mine) return;
  run.drawn = setTimeout(() => requestAnimationFrame(() => {
    run.drawn = 0;
    if (runs.get(mine) !== run || talk !== mine) return;
    const begun = performance.now();
    const stay = atEnd();
    run.writer?.update(run.reply.content);
    if (stay) toEnd();
    ends();
    run.cost = performance.now() - begun;
    if (begun - run.kept > 3000) { run.kept = begun; save(mine); }
  }), Math.min(2000, 4 * run.cost));
}

/// Says what went wrong and what can be done.
function explain(error, mine, seed) {
  const again = ["Try again", () => answer(mine, { seed })];
  const say = (text, ...steps) => problems.set(mine, { text, steps });
  if (error instanceof server.Gone) {
    props = null;
    say(error.message, ["Try again", async () => { await connect(); answer(mine, { seed }); }]);
    connect();
  } else if (error.status === 401) {
    say("The server wants another API key.", again);
    askForKey();
  } else if (error.code === "context_length_exceeded") {
    const { n_prompt_tokens: prompt, n_ctx: context } = error.detail;
    const what = isBase() ? "The text" : "The conversation";
    const numbers = `${number(prompt, 0)} tokens, and the model reads ${number(context, 0)}`;
    if (turns(mine).length > 1) say(`${what} is longer than the model can read (${numbers}).`, ["Go on without the oldest part", () => forget(mine, context)]);
    else say(`${isBase() ? "This text" : "This message"} alone is longer than the model can read (${numbers}). Edit it to make it shorter.`);
  } else if (error.status === 503 && error.code === "model_loading") {
    props = null;
    say("The model is still being loaded.", ["Try again", async () => { await connect(); answer(mine, { seed }); }]);
    connect();
  } else if (error.status === 503 || error.status === 429) say(`The server is busy: ${error.message}.`, again);
  else if (error instanceof server.Refusal) say(`The server refused: ${error.message}`, again);
  else say(`The answer could not be read: ${error.message}`, again);
  if (talk === mine) showProblem();
}

/// Where a part that can be left out begins: at what a person wrote, or anywhere in a text.
const turns = (mine) => sent(mine).filter((message) => isBase() || message.role === "user");

/// Leaves out the oldest turns until three quarters of the context are enough, and answers.
async function forget(mine, context) {
  try {
    for (let left = turns(mine).slice(1); left.length; left = left.slice(1)) {
      mine.from = left[0].id;
      const messages = sent(mine).map(({ role, content }) => ({ role, content }));
      const body = isBase() ? { prompt: messages.map((message) => message.content).join("") }
        : { messages: mine.system ? [{ role: "system", content: mine.system }, ...messages] : messages };
      if (await server.count(body) <= 0.75 * context) break;
    }
    answer(mine);
  } catch (error) { explain(error, mine); show(); }
}

// ---- What is seen -------------------------------------------------------------------------------------------------

const box = $("scroll");
const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 80;
const toEnd = () => { box.scrollTop = box.scrollHeight; };
const ends = () => { $("down").hidden = atEnd(); };

const drawn = new WeakMap(); // message -> { element, key }

/// An element that is made anew only when what it shows has changed.
function once(message, key, make) {
  const kept = drawn.get(message);
  if (kept?.key === key) return kept.element;
  const element = make();
  drawn.set(message, { element, key });
  return element;
}

function show({ end = false } = {}) {
  const stay = end || atEnd();
  const run = runs.get(talk);
  const messages = course(talk);
  const base = isBase();
  const context = props?.model.context ?? 0;
  const unsent = messages.length - sent(talk).length;
  const elements = [];
  if (!messages.length) elements.push(emptyView(base, (text) => { $("input").value = text; send(); }));
  else if (base) elements.push(sheet(messages, run, context));
  else {
    messages.forEach((message, index) => {
      if (editing === message) return elements.push(editorOf(message));
      const siblings = versions(talk, message);
      const about = {
        actions, context, model: props?.model.id ?? "the model", last: index + 1 === messages.length, running: run?.reply === message,
        busy: run !== undefined, siblings, place: siblings.indexOf(message), sent: index >= unsent,
      };
      if (unsent && index === unsent) elements.push(node("p", { className: "divider", textContent: "The model no longer reads what is above" }));
      const key = JSON.stringify([message.content.length, message.finish, message.stats, about.last, about.running, about.busy, siblings.length, about.place, about.sent, about.model, context]);
      const element = about.running ? messageView(message, about) : once(message, key, () => messageView(message, about));
      elements.push(element);
      if (about.running) {
        let paragraphs = 0;
        attach(run, new Writer(element, (text) => { if (++paragraphs > run.said) { run.said = paragraphs; announce(text); } }));
      }
    });
  }
  arrange($("messages"), elements);
  showProblem();
  $("title").textContent = talk.title;
  document.title = talk.messages.length ? `${talk.title} · Sherry` : "Sherry";
  if (document.activeElement !== $("system")) $("system").value = talk.system;
  $("stop").hidden = !run;
  $("send").hidden = run !== undefined;
  $("send").disabled = props === null;
  $("send").setAttribute("aria-label", base ? "Continue" : "Send");
  $("messages").setAttribute("aria-busy", String(run !== undefined));
  meter(messages, context);
  showList();
  if (stay) toEnd();
  ends();
}

/// Puts elements into a box and leaves those alone that are there already.
function arrange(into, elements) {
  const wanted = new Set(elements);
  for (const child of [...into.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, index) => { if (into.children[index] !== element) into.insertBefore(element, into.children[index] ?? null); });
}

function attach(run, writer) {
  run.writer = writer;
  run.cost = 0;
  if (run.reply.content) writer.update(run.reply.content);
  writer.wait(...run.state);
}

function sheet(messages, run, context) {
  if (editing === "text") {
    const { box: element, area } = editor(messages.map((message) => message.content).join(""), saveText, stopEditing, "Keep");
    setTimeout(() => area.focus());
    return element;
  }
  const siblings = versions(talk, messages.at(-1));
  const element = sheetView(messages, { actions, context, running: run?.reply, siblings, place: siblings.indexOf(messages.at(-1)) });
  if (run) attach(run, new SheetWriter(element));
  return element;
}

function showProblem() {
  $("messages").querySelector(":scope > .problem")?.remove();
  const problem = problems.get(talk);
  if (!problem || runs.has(talk)) return;
  const steps = problem.steps.map(([text, run]) => [text, () => { problems.delete(talk); showProblem(); run(); }]);
  $("messages").append(problemView({ ...problem, steps }));
  toEnd();
}

function meter(messages, context) {
  const stats = messages.at(-1)?.stats;
  const used = stats ? stats.prompt + stats.generated : 0;
  $("context").hidden = !used || !context;
  if ($("context").hidden) return;
  $("meter").textContent = `${number(used, 0)} of ${number(context, 0)} tokens of context`;
  $("context").querySelector(".bar div").style.width = `${Math.min(100, (100 * used) / context)}%`;
}

function showList() {
  talks.sort((a, b) => b.changed - a.changed);
  const all = talks.includes(talk) ? talks : [talk, ...talks];
  if (renaming && $("list").querySelector(".renaming")) return; // somebody is writing in it
  $("list").replaceChildren(...all.map((one) => listItem(one, { current: one === talk, running: runs.has(one), renaming: renaming === one, actions })));
  const field = $("list").querySelector("input");
  if (field) { field.focus(); field.select(); }
}

// ---- What is done -------------------------------------------------------------------------------------------------

const actions = {
  copy: (text, element) => copy(text, element, announce),
  answer: () => answer(talk),
  again(message, seed) {
    if (runs.has(talk)) return;
    talk.leaf = message.parent;
    answer(talk, { seed });
  },
  proceed: (message) => answer(talk, { reply: message }),
  switch(message) {
    problems.delete(talk);
    goThrough(talk, message);
    save(talk);
    show();
  },
  edit(message) {
    if (runs.has(talk)) return;
    editing = message ?? "text";
    show();
    $("messages").querySelector(".edit")?.focus();
  },
  open(one) {
    talk = one;
    editing = null;
    show({ end: true });
    closeMenu();
  },
  beginRename(one) { renaming = one; showList(); },
  rename(one, title) {
    renaming = null;
    if (title && title !== one.title) { one.title = shorten(title, 80); if (talks.includes(one)) save(one); }
    $("list").replaceChildren();
    show();
    [...$("list").querySelectorAll(".open")].find((element) => element.title === one.title)?.focus();
  },
  async remove(one) {
    runs.get(one)?.control.abort();
    talks = talks.filter((other) => other !== one);
    problems.delete(one);
    if (one === talk) fresh(); else showList();
    await store.remove(one.id);
    channel?.postMessage(one.id);
    toast(`“${shorten(one.title, 30)}” is deleted.`, { text: "Undo", run: async () => { await save(one); actions.open(one); } });
  },
};

function stopEditing() { editing = null; show(); $("input").focus(); }

function editorOf(message) {
  const { box } = editor(message.content, (text) => {
    if (!text.trim()) return;
    editing = null;
    if (sent(talk).every((other) => other !== message)) talk.from = null;
    add(talk, { role: "user", content: text.trim() }, message.parent);
    problems.delete(talk);
    answer(talk);
    $("input").focus();
  }, stopEditing);
  return box;
}

/// A text that was changed becomes another version of the whole.
function saveText(text) {
  editing = null;
  if (text) { talk.from = null; problems.delete(talk); add(talk, { role: "user", content: text }, null); save(talk); }
  show();
  $("input").focus();
}

function fresh() {
  talk = newTalk();
  editing = null;
  show();
  closeMenu();
  $("input").focus();
}

function send() {
  const text = $("input").value;
  if (runs.has(talk) || !props) return;
  const base = isBase();
  if (!text.trim()) { if (base && talk.messages.length) answer(talk); return; }
  if (!talk.messages.length) talk.title = shorten(text.trim()) || talk.title;
  add(talk, { role: "user", content: base ? text : text.trim() });
  $("input").value = "";
  grow();
  answer(talk);
}

function grow() {
  const area = $("input");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

function openSettings() { if (!$("settings").open) $("settings").showModal(); }

function closeMenu() {
  if (!$("app").classList.contains("open")) return;
  $("app").classList.remove("open");
  $("shade").hidden = true;
  $("menu").setAttribute("aria-expanded", "false");
  $("menu").focus();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function theme() {
  const chosen = browser.get("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  const isDark = (chosen ?? (dark.matches ? "dark" : "light")) === "dark";
  const label = isDark ? "Light colours" : "Dark colours";
  $("theme").replaceChildren(icon(isDark ? "sun" : "moon"));
  $("theme").title = label;
  $("theme").setAttribute("aria-label", label);
}
theme();
dark.addEventListener("change", theme);

for (const [id, name] of Object.entries({ menu: "menu", "settings-button": "settings", "settings-close": "close", send: "up", stop: "stop", down: "down" })) $(id).append(icon(name));
$("new").prepend(icon("plus"));

$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  // On a touch screen Enter breaks the line: there is a button, and no Shift at hand.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(hover: none) and (pointer: coarse)").matches) return;
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => runs.get(talk)?.control.abort());
$("new").addEventListener("click", fresh);
$("menu").addEventListener("click", () => {
  $("app").classList.add("open");
  $("shade").hidden = false;
  $("menu").setAttribute("aria-expanded", "true");
  $("new").focus();
});
$("shade").addEventListener("click", closeMenu);
$("down").addEventListener("click", () => { toEnd(); $("input").focus(); });
box.addEventListener("scroll", ends, { passive: true });
$("messages").addEventListener("click", (event) => {
  const it = event.target.closest("[data-copy]");
  if (it) copy(it.closest(".block").querySelector("code").textContent, it, announce);
});
$("settings-button").addEventListener("click", openSettings);
$("settings-close").addEventListener("click", () => $("settings").close());
$("settings").addEventListener("click", (event) => { if (event.target === $("settings")) $("settings").close(); });
$("system").addEventListener("change", () => { talk.system = $("system").value.trim(); if (talks.includes(talk)) save(talk); });
$("theme").addEventListener("click", () => {
  browser.set("theme", (browser.get("theme") ?? (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark");
  theme();
});
for (const name of FIELDS) $(name).addEventListener("change", () => browser.set(name, $(name).value));
$("reset").addEventListener("click", () => { for (const name of FIELDS) { $(name).value = ""; browser.set(name, null); } announce("The settings are reset."); });
$("key-use").addEventListener("click", useKey);
$("key").addEventListener("keydown", (event) => { if (event.key === "Enter") useKey(); });
$("remember").addEventListener("change", () => browser.set("key", $("remember").checked ? $("key").value : null));
$("export").addEventListener("click", () => {
  if (!talks.length) return toast("There is no conversation to export.");
  const url = URL.createObjectURL(new Blob([exported(talks)], { type: "application/json" }));
  node("a", { href: url, download: "sherry-conversations.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
$("import-button").addEventListener("click", () => $("import").click());
$("import").addEventListener("change", async () => {
  try {
    const added = imported(await $("import").files[0].text(), talks);
    for (const one of added) { talks.push(one); await store.put(one); channel?.postMessage(one.id); }
    toast(added.length === 1 ? "One conversation is imported." : added.length ? `${added.length} conversations are imported.` : "All of these conversations are here already.");
    showList();
  } catch (error) { toast(`The file could not be imported: ${error.message}.`); }
  $("import").value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("settings").open) {
    if ($("app").classList.contains("open")) closeMenu(); else runs.get(talk)?.control.abort();
  }
  if (event.altKey && !event.ctrlKey && !event.metaKey && event.code === "KeyN") { event.preventDefault(); $("settings").close(); fresh(); }
});
// What was written so far outlives the page.
addEventListener("pagehide", () => { for (const mine of runs.keys()) save(mine); });

// Other tabs change the same conversations.
const channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("sherry");
channel?.addEventListener("message", async ({ data: id }) => {
  const mine = talks.find((one) => one.id === id);
  if (!store.db || (mine && runs.has(mine))) return;
  const theirs = await store.get(id).catch(() => undefined);
  if (!theirs && !mine) return;
  talks = talks.filter((one) => one !== mine);
  if (theirs) talks.push(theirs);
  if (talk === mine) { if (theirs) talk = theirs; else talk = newTalk(); show(); } else showList();
});

for (const name of FIELDS) $(name).value = browser.get(name) ?? "";
$("key").value = tab.get("key") ?? browser.get("key") ?? "";
$("remember").checked = browser.get("key") !== null;
if (!server.useKey($("key").value)) $("key").value = "";
show();
connect();
try {
  $("private").hidden = await store.open();
  talks.push(...await store.all());
} catch (error) { toast(`The conversations of this browser could not be read: ${error.message}`); }
showList();
