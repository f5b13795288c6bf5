// What is seen: elements for messages, lists and numbers. Knows nothing of the server and keeps nothing.

import { Growing, render } from "./markdown.js";

// Drawn on a square of 24.
const ICONS = {
  plus: "M12 5v14M5 12h14", menu: "M4 7h16M4 12h16M4 17h10", close: "M6 6l12 12M18 6L6 18", check: "M5 13l4 4L19 7",
  up: "M12 19V5M6 11l6-6 6 6", down: "M12 5v14M6 13l6 6 6-6", left: "M14.500 6l-6 6 6 6", right: "M9.500 6l6 6-6 6",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4", again: "M19.500 12a7.500 7.500 0 1 1-2.400-5.500L20 9.200M20 4v5.200h-5.200", on: "M5 5v14l9-7zM18 5v14",
  edit: "M4 20l1-4.500L16.500 4 20 7.500 8.500 19zM14 6.500l3.500 3.500", trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.500 11v5.500M13.500 11v5.500",
  settings: "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.500v5M8 14.500v5", stop: "M7 7h10v10H7z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400",
  moon: "M20 14.500A8.500 8.500 0 0 1 9.500 4a8.500 8.500 0 1 0 10.500 10.500z",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function node(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function button(text, action, { label = text, picture = null, className = "" } = {}) {
  const element = node("button", { type: "button", className, title: label }, ...(picture ? [icon(picture)] : []), ...(text ? [node("span", { textContent: text })] : []));
  if (label !== text) element.setAttribute("aria-label", label);
  element.addEventListener("click", () => action(element));
  return element;
}
const tool = (label, picture, action) => button("", action, { label, picture, className: "icon" });

export const number = (value, digits = 1) => value.toLocaleString("en", { maximumFractionDigits: digits });
/// A number with the unit among `units` (thousands, millions, thousand millions) that suits it.
const scaled = (value, units) => (value >= 1e9 ? `${number(value / 1e9, 2)} ${units[2]}` : value >= 1e6 ? `${number(value / 1e6)} ${units[1]}` : `${number(value / 1e3)} ${units[0]}`);
export const bytes = (value) => scaled(value, ["kB", "MB", "GB"]);
export const parameters = (value) => `${scaled(value, ["thousand", "million", "billion"])} parameters`;
export const facts = (pairs) => pairs.map(([name, value]) => node("div", {}, node("dt", { textContent: name }), node("dd", {}, value)));
const nameOf = (count, one, many = `${one}s`) => `${number(count, 0)} ${count === 1 ? one : many}`;

/// Tells a person for a moment that what was asked for is done.
function done(element, text = "Done") {
  const picture = element.querySelector("svg");
  const words = element.textContent;
  if (picture) { const check = icon("check"); picture.replaceWith(check); setTimeout(() => check.replaceWith(picture), 1500); }
  else { element.textContent = text; setTimeout(() => { element.textContent = words; }, 1500); }
}

/// Copies; pages that came over plain http from another machine have no clipboard of their own.
export async function copy(text, element, announce) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = node("textarea", { value: text, className: "hidden", readOnly: true });
    (element.closest("dialog") ?? document.body).append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    element.focus();
    if (!copied) return announce("The browser does not let this page copy.");
  }
  done(element, "Copied");
  announce("Copied");
}

// ---- One message --------------------------------------------------------------------------------------------------

const opened = new WeakSet(); // answers whose numbers are shown

/// The numbers of an answer: a line that opens.
function numbers(message, { context, actions }) {
  const { prompt, cached, generated, promptRate, rate, first, seed } = message.stats;
  const used = prompt + generated;
  const bar = node("div", { className: "bar" }, node("div"));
  bar.firstChild.style.width = `${Math.min(100, (100 * used) / context)}%`;
  const seedCell = node("span", { textContent: seed ?? "" });
  const list = facts([
    ["Prompt", `${nameOf(prompt, "token")}${cached ? `, ${number(cached, 0)} from the cache` : ""}`],
    ["Prompt speed", promptRate ? `${number(promptRate, 0)} tokens/s` : "–"],
    ["First token after", `${number(first / 1000, 2)} s`],
    ["Answer", nameOf(generated, "token")],
    ["Answer speed", rate ? `${number(rate)} tokens/s` : "–"],
    ["Seed", seedCell],
    ["Context used", node("div", { className: "used" }, `${number(used, 0)} of ${number(context, 0)}`, bar)],
  ]);
  const summary = node("summary", {}, node("span", { textContent: rate ? `${number(rate)} tokens/s` : nameOf(generated, "token") }),
    node("span", { className: "more", textContent: rate ? nameOf(generated, "token") : "" }), ...(cached ? [node("span", { className: "more", textContent: `${number(cached, 0)} cached` })] : []));
  const box = node("details", { className: "numbers", open: opened.has(message) }, summary, node("dl", {}, ...list));
  if (seed !== undefined) box.append(button("Answer again with this seed", () => actions.again(message, seed), { picture: "again", className: "quiet" }));
  box.addEventListener("toggle", () => { if (box.open) opened.add(message); else opened.delete(message); });
  return box;
}

const NOTES = { stopped: "Stopped", length: "Ended at the most tokens", full: "Ended: the context is full" };

/// A text that a model may have thought about first.
function answer(text, into, growing) {
  const thought = /^\s*<think>/.exec(text);
  if (!thought) { if (growing) growing.update(text); else render(text, into); return; }
  const end = text.indexOf("</think>");
  let box = into.querySelector(":scope > .thought");
  if (!box) {
    box = node("details", { className: "thought" }, node("summary", { textContent: "Thoughts" }), node("div", { className: "plain" }));
    into.replaceChildren(box, node("div"));
    into.growing = growing && new Growing(into.lastChild, growing.finished);
  }
  box.lastChild.textContent = text.slice(thought[0].length, end < 0 ? text.length : end).trim();
  if (end < 0) return;
  const rest = text.slice(end + 8).trimStart();
  if (into.growing) into.growing.update(rest); else render(rest, into.lastChild);
}

/// Arrows between the versions of a message.
function versionsView({ siblings, place, actions }) {
  const arrow = (step, label, picture) => {
    const element = tool(label, picture, () => actions.switch(siblings[place + step]));
    element.disabled = !siblings[place + step];
    return element;
  };
  return node("span", { className: "versions" }, arrow(-1, "Previous version", "left"), node("span", { textContent: `${place + 1}/${siblings.length}` }), arrow(1, "Next version", "right"));
}

/// The element of a message. `about` holds { actions, context, model, last, running, siblings, place, sent }.
export function messageView(message, about) {
  const { actions, last, running, siblings } = about;
  const user = message.role === "user";
  const element = node("article", { className: `${user ? "user" : "assistant"}${about.sent ? "" : " unsent"}` });
  const heading = node("h2", { className: "hidden", textContent: user ? "Your message" : `Answer of ${about.model}` });
  const body = node("div", { className: "body" });
  if (user) { body.textContent = message.content; body.dir = "auto"; } else if (!running) answer(message.content, body);
  const tools = node("div", { className: "tools" });
  if (siblings.length > 1 && !about.busy) tools.append(versionsView(about));
  if (!running) {
    tools.append(tool(user ? "Copy this message" : "Copy this answer", "copy", (element) => actions.copy(message.content, element)));
    if (!about.busy) {
      if (user) tools.append(tool("Edit this message", "edit", () => actions.edit(message)));
      else tools.append(tool("Regenerate this answer", "again", () => actions.again(message)));
      if (user && last) tools.append(button("Answer", () => actions.answer(), { picture: "again", className: "quiet" }));
      if (!user && last && message.finish !== "stop" && message.finish !== "full") tools.append(button("Continue", () => actions.proceed(message), { label: "Continue this answer", picture: "on", className: "quiet" }));
    }
    if (NOTES[message.finish]) tools.append(node("span", { className: "note", textContent: NOTES[message.finish] }));
    if (message.stats) tools.append(numbers(message, about));
  } else tools.append(node("span", { className: "note waiting" }));
  element.append(heading, body, tools);
  return element;
}

/// Writes a running answer into the element of its message.
export class Writer {
  constructor(element, finished) {
    this.body = element.querySelector(".body");
    this.state = element.querySelector(".waiting");
    this.growing = new Growing(this.body, finished);
    this.body.classList.add("running");
  }
  update(text) { answer(text, this.body, this.growing); }
  wait(text, part = null) {
    this.state.textContent = text;
    if (part !== null) { const bar = node("span", { className: "bar" }, node("span")); bar.firstChild.style.width = `${100 * part}%`; this.state.append(bar); }
  }
}

/// The field in which a message is changed.
export function editor(text, save, cancel, label = "Send") {
  const area = node("textarea", { className: "edit", value: text, dir: "auto", rows: Math.max(2, Math.min(14, text.split("\n", 14).length + 1)) });
  area.setAttribute("aria-label", "Changed message");
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); cancel(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && label === "Send") { event.preventDefault(); save(area.value); }
  });
  const box = node("div", { className: "editor" }, area, node("div", { className: "row end" },
    button("Cancel", cancel), button(label, () => save(area.value), { className: "primary" })));
  return { box, area };
}

/// A text that is continued: all its parts on one sheet.
export function sheetView(messages, about) {
  const { actions } = about;
  const last = messages.at(-1);
  const body = node("div", { className: "body", dir: "auto" });
  for (const message of messages) body.append(node("span", { className: message.role === "user" ? "given" : "written", textContent: about.running === message ? "" : message.content }));
  const element = node("article", { className: "text" });
  element.setAttribute("aria-label", "Text");
  const tools = node("div", { className: "tools" });
  if (!about.running) {
    if (last.role === "assistant" && about.siblings.length > 1) tools.append(versionsView(about));
    tools.append(button("Continue", () => actions.answer(), { label: "Continue this text", picture: "on", className: "quiet" }));
    if (last.role === "assistant") tools.append(tool("Write the last part again", "again", () => actions.again(last)));
    tools.append(tool("Copy the text", "copy", (it) => actions.copy(messages.map((message) => message.content).join(""), it)));
    tools.append(tool("Edit the text", "edit", () => actions.edit(null)));
    if (last.finish && NOTES[last.finish] && last.finish !== "length") tools.append(node("span", { className: "note", textContent: NOTES[last.finish] }));
    if (last.stats) tools.append(numbers(last, about));
  } else tools.append(node("span", { className: "note waiting" }));
  element.append(body, tools);
  return element;
}

/// Writes a running continuation.
export class SheetWriter extends Writer {
  constructor(element) { super(element, () => {}); this.span = this.body.lastChild; }
  update(text) { this.span.textContent = text; }
}

/// What went wrong, with what can be done.
export function problemView({ text, steps }) {
  const box = node("div", { className: "problem" }, node("p", { textContent: text }));
  box.setAttribute("role", "alert");
  if (steps.length) box.append(node("div", { className: "row" }, ...steps.map(([label, run], index) => button(label, run, { className: index ? "quiet" : "primary" }))));
  return box;
}

const SUGGESTIONS = {
  chat: [["Explain", "photosynthesis to a child"], ["Write", "a haiku about rain"], ["Compare", "tea and coffee in a table"], ["Show", "a loop in Python"]],
  base: [["Once upon a time", ""], ["One day, a little bird", ""], ["The old farmer had a horse", ""]],
};

/// What stands where no message is.
export function emptyView(base, use) {
  const cards = (base ? SUGGESTIONS.base : SUGGESTIONS.chat).map(([strong, rest]) => {
    const text = rest ? `${strong} ${rest}` : strong;
    const card = node("button", { type: "button", className: "card" }, node("strong", { textContent: strong }), rest ? ` ${rest}` : "");
    card.addEventListener("click", () => use(text));
    return card;
  });
  return node("div", { className: "empty" },
    node("img", { src: "favicon.svg", alt: "", width: 64, height: 64 }),
    node("p", { className: "greeting", textContent: base ? "Continue a text" : "What is on your mind?" }),
    node("p", { className: "hint", textContent: base ? "This model continues texts; it was not made for conversation. Give it a beginning." : "Conversations stay in this browser; the server keeps none." }),
    node("div", { className: "suggestions" }, ...cards));
}

// ---- The list of conversations ------------------------------------------------------------------------------------

export function listItem(talk, { current, running, renaming, actions }) {
  if (renaming) {
    const field = node("input", { type: "text", value: talk.title, maxLength: 80, dir: "auto" });
    field.setAttribute("aria-label", "Name of this conversation");
    let ended = false;
    const end = (keep) => { if (!ended) { ended = true; actions.rename(talk, keep ? field.value.trim() : ""); } };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); end(true); }
      if (event.key === "Escape") { event.stopPropagation(); end(false); }
    });
    field.addEventListener("blur", () => end(true));
    return node("li", { className: "renaming" }, field);
  }
  const open = node("button", { type: "button", className: "open", title: talk.title }, node("span", { textContent: talk.title, dir: "auto" }));
  open.addEventListener("click", () => actions.open(talk));
  if (current) open.setAttribute("aria-current", "true");
  const item = node("li", { className: `${current ? "current" : ""}${running ? " busy" : ""}` }, open,
    tool(`Rename ${talk.title}`, "edit", () => actions.beginRename(talk)), tool(`Delete ${talk.title}`, "trash", () => actions.remove(talk)));
  if (running) open.append(node("span", { className: "hidden", textContent: ", being answered" }));
  return item;
}
