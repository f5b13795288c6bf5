// Conversations: trees of messages, kept in this browser (IndexedDB), or in memory where the browser keeps nothing.
//
// A conversation is { id, title, system, messages, leaf, from, changed }. Each message is { id, parent, role, content,
// stats, finish }; what a person edits or has answered again becomes a sibling, so that nothing is lost. `leaf` is the
// end of the course that is shown; messages before `from` are shown but no longer sent.

const FORMAT = "sherry-conversations-1";
const NUMBERS = ["prompt", "cached", "generated", "promptRate", "rate", "first"];

export const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
export const shorten = (text, most = 60) => {
  const characters = [...text.slice(0, 4 * most).trim().split("\n")[0]];
  return characters.length > most ? `${characters.slice(0, most - 1).join("").trimEnd()}…` : characters.join("");
};

export const newTalk = () => ({ id: newId(), title: "New conversation", system: "", messages: [], leaf: null, from: null, changed: Date.now() });
const find = (talk, id) => talk.messages.find((message) => message.id === id);

/// The messages from the beginning to the leaf.
export function course(talk) {
  const known = new Map(talk.messages.map((message) => [message.id, message]));
  const found = [];
  for (let message = known.get(talk.leaf); message; message = known.get(message.parent)) found.push(message);
  return found.reverse();
}

/// Those that are sent: from `from` on.
export function sent(talk) {
  const messages = course(talk);
  return messages.slice(Math.max(0, messages.findIndex((message) => message.id === talk.from)));
}

/// Adds a message after `parent` (the leaf) and goes there.
export function add(talk, message, parent = talk.leaf) {
  const added = { ...message, id: newId(), parent };
  talk.messages.push(added);
  talk.leaf = added.id;
  return added;
}

/// All that stand at the place of `message`, in the order in which they were written.
export const versions = (talk, message) => talk.messages.filter((other) => other.parent === message.parent && other.role === message.role);

/// Shows the course that goes through `message`, to its newest end.
export function goThrough(talk, message) {
  for (let next = message; next;) {
    talk.leaf = next.id;
    next = talk.messages.findLast((other) => other.parent === talk.leaf);
  }
}

/// Takes a message without children out again.
export function drop(talk, message) {
  talk.messages = talk.messages.filter((other) => other !== message);
  if (talk.leaf !== message.id) return;
  talk.leaf = message.parent;
  const last = talk.messages.findLast((other) => other.parent === message.parent && other.role === message.role);
  if (last) goThrough(talk, last);
}

/// A conversation from what a file or the browser holds.
export function checked(value) {
  const text = (it, what) => { if (typeof it !== "string") throw new Error(`${what} is no text`); return it; };
  if (typeof value !== "object" || !Array.isArray(value?.messages)) throw new Error("a conversation has no list of messages");
  const ids = new Set([null]);
  let last = null;
  const messages = value.messages.map((one, index) => {
    const what = `messages[${index}]`;
    if (one?.role !== "user" && one?.role !== "assistant") throw new Error(`${what}.role is neither "user" nor "assistant"`);
    const message = { id: one.id === undefined ? newId() : text(one.id, `${what}.id`), parent: one.parent === undefined ? last : one.parent, role: one.role, content: text(one.content, `${what}.content`) };
    if (ids.has(message.id)) throw new Error(`${what}.id is there twice`);
    if (!ids.has(message.parent)) throw new Error(`${what}.parent is no earlier message`);
    ids.add(message.id);
    last = message.id;
    if (["stop", "length", "stopped", "full"].includes(one.finish)) message.finish = one.finish;
    if (one.stats && typeof one.stats === "object") {
      message.stats = Object.fromEntries(NUMBERS.map((name) => [name, Number.isFinite(one.stats[name]) ? one.stats[name] : 0]));
      if (/^-?\d{1,20}$/.test(one.stats.seed)) message.stats.seed = String(one.stats.seed);
    }
    return message;
  });
  const known = (id) => id !== null && ids.has(id);
  return {
    id: typeof value.id === "string" && value.id ? value.id : newId(),
    title: shorten(typeof value.title === "string" ? value.title : "", 80) || "Conversation",
    system: typeof value.system === "string" ? value.system : "",
    messages,
    leaf: known(value.leaf) ? value.leaf : last,
    from: known(value.from) ? value.from : null,
    changed: Number.isFinite(value.changed) ? value.changed : Date.now(),
  };
}

export const exported = (talks) => JSON.stringify({ format: FORMAT, conversations: talks }, null, 1);

/// The conversations of an export; those that are there already with the same content are left out, and others of the
/// same id get a new one. Throws before anything is taken when a part of it cannot be read.
export function imported(text, present) {
  let file;
  try { file = JSON.parse(text); } catch { throw new Error("it is not JSON"); }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new Error("it is no export of this page");
  const byId = new Map(present.map((talk) => [talk.id, talk]));
  const fresh = [];
  for (const [index, value] of file.conversations.entries()) {
    let talk;
    try { talk = checked(value); } catch (error) { throw new Error(`conversations[${index}]: ${error.message}`); }
    const other = byId.get(talk.id);
    const content = (one) => JSON.stringify([one.title, one.system, one.leaf, one.messages.map(({ id, parent, role, content }) => [id, parent, role, content])]);
    if (other && content(other) === content(talk)) continue;
    if (other) talk.id = newId();
    byId.set(talk.id, talk);
    fresh.push(talk);
  }
  return fresh;
}

// ---- Where they are kept ------------------------------------------------------------------------------------------

export const store = {
  memory: new Map(),
  db: null,
  /// Whether conversations outlive the window.
  async open() {
    try {
      this.db = await new Promise((resolve, reject) => {
        const request = indexedDB.open("sherry", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
      this.db.onversionchange = () => this.db.close();
    } catch { this.db = null; }
    return this.db !== null;
  },
  run(mode, action) {
    return new Promise((resolve, reject) => {
      const transaction = this.db.transaction("conversations", mode);
      const request = action(transaction.objectStore("conversations"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
    });
  },
  async all() {
    const found = this.db ? await this.run("readonly", (s) => s.getAll()) : [...this.memory.values()];
    // What cannot be read stays where it is.
    return found.flatMap((value) => { try { return [checked(value)]; } catch { return []; } });
  },
  async get(id) {
    const value = this.db ? await this.run("readonly", (s) => s.get(id)) : this.memory.get(id);
    return value && checked(value);
  },
  async put(talk) { if (this.db) await this.run("readwrite", (s) => s.put(talk)); else this.memory.set(talk.id, structuredClone(talk)); },
  async remove(id) { if (this.db) await this.run("readwrite", (s) => s.delete(id)); else this.memory.delete(id); },
};

/// Small things that are kept as text: in this browser, or in this tab only. A browser that keeps nothing forgets them.
const box = (which) => ({
  get(name) { try { return which().getItem(name); } catch { return null; } },
  set(name, value) {
    try { if (value === null || value === "") which().removeItem(name); else which().setItem(name, value); } catch { /* kept in memory by the page */ }
  },
});
export const browser = box(() => localStorage);
export const tab = box(() => sessionStorage);
