// Markdown to elements. Everything is made with createElement and text nodes: no HTML string exists anywhere, so nothing
// that a model or a person writes can become markup. Pictures are not loaded, since loading one tells its host.
//
// No step looks at a character more than a bounded number of times, whatever the text: lines and characters are scanned
// by hand, since regular expressions with several repeats can take quadratic time on texts made for that. An element
// gets dir="auto" when it is complete: with it a browser looks through the whole of it whenever a child is added.

import { highlight } from "./highlight.js";

const SAFE = /^(https?:\/\/|mailto:)/i;
const MAX_DEPTH = 10; // of quotes, lists and emphasis; what is deeper is shown as text
const MAX_ELEMENTS = 15_000; // of one text; what comes later is shown as text
const MAX_URL = 2000;
const MAX_COLUMNS = 100;

let left = MAX_ELEMENTS;

const make = (tag, ...children) => {
  left--;
  const node = document.createElement(tag);
  node.append(...children);
  return node;
};

// ---- Inside a line: code, emphasis, links -------------------------------------------------------------------------

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const isSpace = (c) => c === undefined || c === " " || c === "\n" || c === "\t" || c === "\u00a0";
const isMark = (c) => c !== undefined && /[!-/:-@[-`{-~\p{P}\p{S}]/u.test(c);

/// For each run of backticks the place of the next run of the same length.
function codeSpans(text) {
  const ends = new Map();
  const last = new Map();
  for (let i = text.indexOf("`"); i >= 0; i = text.indexOf("`", i)) {
    const from = i;
    while (text[i] === "`") i++;
    const length = i - from;
    if (last.has(length)) ends.set(last.get(length), from);
    last.set(length, from);
  }
  return ends;
}

/// The address of a link that begins at `at`, after "(": [address, place after ")"].
function destination(text, at) {
  const limit = Math.min(text.length, at + MAX_URL);
  let end = at;
  let depth = 0;
  for (; end < limit; end++) {
    const c = text[end];
    if (c === "(" && ++depth > 8) return null;
    if (c === ")" && --depth < 0) break;
    if (isSpace(c)) break;
  }
  const url = text.slice(at, end).replace(/^<|>$/g, "");
  if (text[end] === ")") return [url, end + 1];
  // A title after the address; it is not shown.
  while (end < limit && text[end] === " ") end++;
  const quote = text[end];
  if (quote !== '"' && quote !== "'") return null;
  const close = text.slice(end + 1, end + 300).indexOf(`${quote})`);
  return close < 0 ? null : [url, end + 1 + close + 2];
}

function link(url, ...children) {
  const node = make("a", ...children);
  node.href = url;
  node.rel = "noopener noreferrer";
  node.target = "_blank";
  return node;
}

/// Text with `code`, **strong**, *emphasis*, ~~deleted~~, [links](https://...) and addresses.
export function inline(text, into) {
  if (left <= 0) { into.append(text); return; }
  const spans = codeSpans(text);
  const marks = []; // runs of * _ ~ that may begin or end something: { node, char, count, opens, closes }
  const brackets = []; // open ones: { node, marks: how many there were }
  let deep = false; // something was too deep: what follows stays as it is written
  const bottoms = new Map(); // kind of closing run -> runs below have nothing for it
  const depths = new WeakMap();
  let plain = "";
  const put = (node) => { if (plain) into.append(plain); plain = ""; if (node) into.append(node); };

  /// Moves what stands between two nodes into `box`, unless that makes it too deep.
  const wrap = (from, to, box) => {
    let depth = 1;
    for (let node = from.nextSibling; node !== to; node = node.nextSibling) depth = Math.max(depth, 1 + (depths.get(node) ?? 0));
    if (depth > MAX_DEPTH || left <= 0) { deep = true; return false; }
    while (from.nextSibling !== to) box.append(from.nextSibling);
    from.after(box);
    depths.set(box, depth);
    return true;
  };

  /// Pairs the runs of marks from `base` on.
  const pair = (base) => {
    bottoms.clear();
    for (let i = base; i < marks.length && !deep; i++) {
      const end = marks[i];
      if (!end.closes) continue;
      while (end.count > 0) {
        const kind = `${end.char}${end.opens}${end.count % 3}`;
        let j = i - 1;
        for (; j >= Math.max(base, bottoms.get(kind) ?? base); j--) {
          const begin = marks[j];
          if (begin.char !== end.char || !begin.opens || !begin.count) continue;
          // Marks that both open and close pair only if their lengths do not add up to a multiple of three.
          if (end.char !== "~" && (begin.closes || end.opens) && (begin.count + end.count) % 3 === 0 && (begin.count % 3 || end.count % 3)) continue;
          if (end.char === "~" && begin.count !== end.count) continue;
          break;
        }
        if (j < Math.max(base, bottoms.get(kind) ?? base)) { bottoms.set(kind, i); break; }
        const begin = marks[j];
        const used = end.char === "~" ? end.count : begin.count > 1 && end.count > 1 ? 2 : 1;
        const box = make(end.char === "~" ? "del" : used === 2 ? "strong" : "em");
        for (let k = j + 1; k < i; k++) marks[k].count = 0;
        if (!wrap(begin.node, end.node, box)) break;
        begin.count -= used;
        end.count -= used;
        begin.node.data = begin.node.data.slice(used);
        end.node.data = end.node.data.slice(used);
      }
    }
    marks.length = base;
  };

  for (let i = 0; i < text.length;) {
    const c = text[i];
    if (c === "\\") {
      if (text[i + 1] === "\n") { put(make("br")); i += 2; }
      else if (i + 1 < text.length && /[!-/:-@[-`{-~]/.test(text[i + 1])) { plain += text[i + 1]; i += 2; }
      else { plain += c; i++; }
    } else if (c === "`") {
      let after = i;
      while (text[after] === "`") after++;
      const end = spans.get(i);
      if (end === undefined) { plain += text.slice(i, after); i = after; continue; }
      const code = text.slice(after, end).replaceAll("\n", " ");
      put(make("code", code.length > 2 && code.startsWith(" ") && code.endsWith(" ") && code.trim() ? code.slice(1, -1) : code));
      i = end + after - i;
    } else if (c === "*" || c === "_" || c === "~") {
      let after = i;
      while (text[after] === c) after++;
      const [before, next] = [text[i - 1], text[after]];
      const leans = !isSpace(next) && (!isMark(next) || isSpace(before) || isMark(before));
      const ends = !isSpace(before) && (!isMark(before) || isSpace(next) || isMark(next));
      const opens = leans && (c !== "_" || !ends || isMark(before));
      const closes = ends && (c !== "_" || !leans || isMark(next));
      const count = after - i;
      if ((opens || closes) && (c !== "~" || count <= 2)) {
        const node = document.createTextNode(text.slice(i, after));
        put(node);
        marks.push({ node, char: c, count, opens, closes });
      } else plain += text.slice(i, after);
      i = after;
    } else if (c === "[") {
      const node = document.createTextNode("[");
      // Of a picture only the link is shown.
      if (plain.endsWith("!") && text[i - 2] !== "\\") node.picture = true;
      put(node);
      brackets.push({ node, marks: marks.length });
      i++;
    } else if (c === "]") {
      const open = brackets.pop();
      const address = open && !deep && text[i + 1] === "(" ? destination(text, i + 2) : null;
      if (!address || !SAFE.test(address[0])) { plain += c; i++; continue; }
      put();
      const end = document.createTextNode("");
      into.append(end);
      pair(open.marks);
      if (wrap(open.node, end, link(address[0]))) {
        if (open.node.picture) open.node.previousSibling.data = open.node.previousSibling.data.slice(0, -1);
        open.node.remove();
        brackets.length = 0; // no links inside links
      } else plain += text.slice(i, address[1]);
      i = address[1];
    } else if (c === "<") {
      const end = text.slice(i, i + MAX_URL).indexOf(">");
      const inner = end > 0 ? text.slice(i + 1, i + end) : "";
      if (/^br ?\/?$/i.test(inner)) { put(make("br")); i += end + 1; }
      else if (SAFE.test(inner) && !/\s/.test(inner)) { put(link(inner, inner)); i += end + 1; }
      else { plain += c; i++; }
    } else if (c === "h" && !brackets.length && !/\w/.test(text[i - 1] ?? " ") && /^https?:\/\/[\w[]/.test(text.slice(i, i + 9))) {
      let end = i;
      while (end < Math.min(text.length, i + MAX_URL) && !isSpace(text[end]) && !'<>"`*|'.includes(text[end])) end++;
      const closing = text.slice(i, end).includes("(") ? "" : ")"; // a parenthesis belongs to an address that opens one
      while (`.,;:!?'_]}~${closing}`.includes(text[end - 1])) end--;
      const url = text.slice(i, end);
      put(link(url, url));
      i = end;
    } else if (c === "&") {
      const match = /^&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w{2,5}));/i.exec(text.slice(i, i + 10));
      const code = match && (match[1] ? Number(match[1]) : match[2] ? parseInt(match[2], 16) : 0);
      const char = !match ? null : match[3] ? ENTITIES[match[3]] : code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : null;
      plain += char ?? c;
      i += char ? match[0].length : 1;
    } else if (c === "\n") {
      if (plain.endsWith("  ")) { plain = plain.trimEnd(); put(make("br")); } else plain += c;
      i++;
    } else {
      let end = i + 1;
      while (end < text.length && !"\\`*_~[]<h&\n".includes(text[end])) end++;
      plain += text.slice(i, end);
      i = end;
    }
    if (left <= 0) { plain += text.slice(i); break; }
  }
  put();
  pair(0);
  into.normalize();
}

// ---- Lines to blocks ----------------------------------------------------------------------------------------------

const isBlank = (line) => !/\S/.test(line);
/// Characters and columns of the white space at a line's beginning; a tab is four columns.
function lead(line) {
  let [start, indent] = [0, 0];
  for (; line[start] === " " || line[start] === "\t"; start++) indent += line[start] === "\t" ? 4 : 1;
  return { start, indent };
}
const indentOf = (line) => lead(line).indent;

/// The line without up to `columns` of the white space at its beginning.
function dedent(line, columns) {
  let at = 0;
  for (; columns > 0 && line[at] === " "; at++) columns--;
  if (columns <= 0 || line[at] !== "\t") return line.slice(at);
  return columns >= 4 ? dedent(line.slice(at + 1), columns - 4) : " ".repeat(4 - columns) + line.slice(at + 1);
}

function fence(line) {
  const { start, indent } = lead(line);
  const char = line[start];
  if (indent > 3 || (char !== "`" && char !== "~")) return null;
  let end = start;
  while (line[end] === char) end++;
  const info = line.slice(end).trim();
  if (end - start < 3 || (char === "`" && info.includes("`"))) return null;
  return { indent, char, count: end - start, language: info.split(/[\s{,]/, 1)[0].slice(0, 40), bare: !info };
}

const closes = (line, open) => {
  const it = line.length < 2000 && fence(line);
  return it && it.bare && it.char === open.char && it.count >= open.count;
};

function heading(line) {
  const { start, indent } = lead(line);
  let level = 0;
  while (level < 7 && line[start + level] === "#") level++;
  if (indent > 3 || !level || level > 6 || !isSpace(line[start + level])) return null;
  let title = line.slice(start + level).trim();
  let end = title.length;
  while (title[end - 1] === "#") end--;
  if (end === 0 || title[end - 1] === " ") title = title.slice(0, end).trim();
  return { level, title };
}

/// A line made of three or more of one of `chars` and of spaces.
function ruler(line, chars, gaps = true) {
  const text = line.trim();
  const char = text[0];
  if (indentOf(line) > 3 || text.length < 3 || !chars.includes(char)) return false;
  let count = 0;
  for (const c of text) { if (c === char) count++; else if (c !== " " || !gaps) return false; }
  return count >= 3;
}

function item(line) {
  const { start, indent } = lead(line);
  const match = /^(?:[-*+]|(\d{1,9})[.)])(?=[ \t]|$)/.exec(line.slice(start, start + 12));
  if (!match || ruler(line, "-*")) return null;
  const after = line.slice(start + match[0].length);
  const gap = indentOf(after.slice(0, 8));
  const space = gap > 4 || isBlank(after) ? 1 : gap;
  // The column at which its text begins, and the text.
  return { indent, column: indent + match[0].length + space, text: dedent(after, space), ordered: match[1] !== undefined, number: Number(match[1]) };
}

/// The cells of a table's row.
function cells(line) {
  const text = line.trim();
  const found = [];
  let from = text[0] === "|" ? 1 : 0;
  for (let i = from; i <= text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "|" || i >= text.length) { found.push(text.slice(from, i).replaceAll("\\|", "|").trim()); from = i + 1; }
  }
  if (text.endsWith("|") && found.length > 1) found.pop();
  return found;
}

function alignments(line, columns) {
  if (!line || !line.includes("-") || !/^[-:| \t]+$/.test(line) || (!line.includes("|") && columns > 1)) return null;
  const found = cells(line).map((cell) => (/^:?-+:?$/.test(cell) ? `${cell[0] === ":" ? "l" : ""}${cell.endsWith(":") ? "r" : ""}` : null));
  return found.length === columns && columns <= MAX_COLUMNS && !found.includes(null) ? found : null;
}

const quoted = (line) => { const { start, indent } = lead(line); return indent <= 3 && line[start] === ">"; };
const interrupts = (line) => {
  const it = item(line);
  return quoted(line) || fence(line) || heading(line) || ruler(line, "-*_") || (it && (!it.ordered || it.number === 1) && it.text);
};

/// Cuts a text into blocks. Only the last one can change when text is added; `from` is the line at which it begins.
export function blocks(lines) {
  const found = [];
  let i = 0;
  const add = (kind, more) => found.push({ kind, ...more });
  while (i < lines.length) {
    const line = lines[i];
    const from = i;
    const open = fence(line);
    const title = heading(line);
    const it = item(line);
    if (isBlank(line)) { i++; continue; }
    if (open) {
      i++;
      while (i < lines.length && !closes(lines[i], open)) i++;
      add("code", { from, language: open.language, lines: lines.slice(from + 1, i).map((one) => dedent(one, open.indent)) });
      i++;
    } else if (title) { add("heading", { from, ...title }); i++; }
    else if (ruler(line, "-*_")) { add("rule", { from }); i++; }
    else if (quoted(line)) {
      const inner = [];
      for (; i < lines.length && !isBlank(lines[i]); i++) {
        if (quoted(lines[i])) inner.push(dedent(lines[i].slice(lead(lines[i]).start + 1), 1));
        else if (interrupts(lines[i])) break;
        else inner.push(lines[i]);
      }
      add("quote", { from, lines: inner });
    } else if (it) {
      const parts = [];
      let loose = false;
      let next = it;
      while (next && next.ordered === it.ordered) {
        const { indent, column } = next;
        const least = Math.min(column, indent + 2); // two spaces are taken for nesting, also below "1."
        const part = [next.text];
        let inside = fence(part[0]); // an open fence of code
        next = null;
        for (i++; i < lines.length; i++) {
          const one = lines[i];
          if (isBlank(one)) {
            let after = i;
            while (after < lines.length && isBlank(lines[after])) after++;
            const further = after < lines.length && indentOf(lines[after]) >= least;
            if (!further) {
              const more = after < lines.length && item(lines[after]);
              if (more && more.ordered === it.ordered) { loose = true; i = after; next = more; }
              break;
            }
            for (; i < after; i++) part.push("");
            loose = loose || !item(lines[after]);
            i--;
          } else if (indentOf(one) >= least) {
            const own = dedent(one, column);
            if (inside) { if (closes(own, inside)) inside = null; } else inside = fence(own);
            part.push(own);
          } else if (!inside && item(one)) { next = item(one); break; }
          else if (!inside && part.at(-1) && !interrupts(one)) part.push(one.trimStart());
          else break;
        }
        parts.push(part);
        if (next && next.ordered !== it.ordered) break;
      }
      add("list", { from, ordered: it.ordered, start: it.number, parts, loose });
    } else if (line.includes("|") && alignments(lines[i + 1], cells(line).length)) {
      const align = alignments(lines[i + 1], cells(line).length);
      for (i += 2; i < lines.length && lines[i].includes("|") && !isBlank(lines[i]);) i++;
      add("table", { from, align, rows: [line, ...lines.slice(from + 2, i)].map(cells) });
    } else if (indentOf(line) >= 4) {
      while (i < lines.length && (isBlank(lines[i]) || indentOf(lines[i]) >= 4)) i++;
      let end = i;
      while (isBlank(lines[end - 1])) end--;
      add("code", { from, language: "", lines: lines.slice(from, end).map((one) => dedent(one, 4)) });
    } else {
      let level = 0;
      for (i++; i < lines.length && !isBlank(lines[i]); i++) {
        level = ruler(lines[i], "=", false) ? 1 : ruler(lines[i], "-", false) ? 2 : 0;
        if (level || interrupts(lines[i]) || (lines[i].includes("|") && alignments(lines[i + 1], cells(lines[i]).length))) break;
      }
      const text = lines.slice(from, i).map((one) => one.trimStart()).join("\n").trimEnd();
      if (level) { add("heading", { from, level, title: text }); i++; } else add("paragraph", { from, text });
    }
  }
  return found;
}

// ---- Blocks to elements -------------------------------------------------------------------------------------------

function list(block, depth, outline) {
  const node = make(block.ordered ? "ol" : "ul");
  if (block.ordered) node.start = block.start;
  for (const part of block.parts) {
    if (left <= 0) { node.append(make("li", block.parts.slice(block.parts.indexOf(part)).map((one) => one.join("\n")).join("\n"))); break; }
    const li = make("li");
    const task = /^\[([ xX])\] /.exec(part[0]);
    if (task) { li.className = "task"; li.append(task[1] === " " ? "☐ " : "☑ "); part[0] = part[0].slice(4); }
    for (const inner of blocks(part)) {
      if (inner.kind === "paragraph" && !block.loose) inline(inner.text, li);
      else li.append(element(inner, depth + 1, outline));
    }
    li.dir = "auto";
    node.append(li);
  }
  return node;
}

function table({ rows, align }) {
  const row = (texts, tag) => {
    const tr = make("tr");
    for (let i = 0; i < align.length; i++) {
      const cell = make(tag);
      if (align[i]) cell.className = align[i] === "lr" ? "center" : align[i] === "r" ? "end" : "";
      inline(texts[i] ?? "", cell);
      cell.dir = "auto";
      tr.append(cell);
    }
    return tr;
  };
  const body = make("tbody");
  const box = make("div", make("table", make("thead", row(rows[0], "th")), body));
  for (let i = 1; i < rows.length; i++) {
    if (left <= 0) { box.append(rows.slice(i).map((texts) => texts.join(" | ")).join("\n")); break; }
    body.append(row(rows[i], "td"));
  }
  box.className = "table";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Table");
  return box;
}

function code(block) {
  const text = block.lines.join("\n");
  const inner = make("code");
  left -= highlight(text, block.language.toLowerCase(), inner);
  const pre = make("pre", inner);
  pre.tabIndex = 0;
  pre.dir = "ltr";
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", block.language ? `${block.language} code` : "Code");
  const name = make("span", block.language || "code");
  const copy = make("button", "Copy");
  copy.type = "button";
  copy.dataset.copy = "code";
  copy.setAttribute("aria-label", block.language ? `Copy ${block.language} code` : "Copy code");
  const bar = make("div", name, copy);
  bar.className = "code-bar";
  const box = make("div", bar, pre);
  box.className = "block";
  return box;
}

/// The element of a block; `outline.level` is that of the last heading, so that none is skipped.
function element(block, depth, outline) {
  switch (block.kind) {
    case "code": return code(block);
    case "rule": return make("hr");
    case "table": return table(block);
    case "heading": {
      outline.level = Math.min(block.level + 2, outline.level + 1, 6);
      const node = make(`h${outline.level}`);
      inline(block.title, node);
      node.dir = "auto";
      return node;
    }
    case "list": {
      if (depth < MAX_DEPTH) return list(block, depth, outline);
      return make("p", block.parts.map((part) => part.join("\n")).join("\n"));
    }
    case "quote": {
      if (depth >= MAX_DEPTH) return make("p", block.lines.join("\n"));
      const node = make("blockquote");
      for (const inner of blocks(block.lines)) node.append(element(inner, depth + 1, outline));
      node.dir = "auto";
      return node;
    }
    default: {
      const node = make("p");
      inline(block.text, node);
      node.dir = "auto";
      return node;
    }
  }
}

/// A text that grows: blocks that are complete are made once, and only the last one is made anew.
export class Growing {
  #kept = 0; // characters of the complete blocks,
  #nodes = 0; // how many elements there are of them,
  #left = MAX_ELEMENTS; // how many more may be made,
  #outline = { level: 2 };

  /// `finished` is told the text of each block that is complete.
  constructor(into, finished = () => {}) { this.into = into; this.finished = finished; }

  update(text) {
    const lines = text.slice(this.#kept).replaceAll("\r", "").split("\n");
    while (this.into.childNodes.length > this.#nodes) this.into.lastChild.remove();
    left = this.#left;
    const found = blocks(lines);
    // A list goes on if the line that follows it turns out to be an item.
    let complete = found.length - 1;
    if (found.at(-2)?.kind === "list" && found.at(-1).from + 1 === lines.length) complete--;
    let line = 0;
    for (const [index, block] of found.entries()) {
      if (left <= 0) {
        const rest = document.createElement("p");
        rest.className = "plain";
        rest.textContent = lines.slice(block.from).join("\n");
        this.into.append(rest);
        break;
      }
      const done = index < complete;
      this.into.append(element(block, 0, done ? this.#outline : { ...this.#outline }));
      if (!done) continue;
      this.#left = left;
      this.#nodes++;
      line = found[index + 1].from;
      this.finished(this.into.lastChild.textContent);
    }
    for (; line > 0; line--) this.#kept = text.indexOf("\n", this.#kept) + 1;
  }
}

/// A whole text, into `into`.
export function render(text, into) { new Growing(into).update(text); }
