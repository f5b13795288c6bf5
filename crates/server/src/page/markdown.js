// Markdown to elements. Everything is made with createElement and textContent: no HTML string exists anywhere, so
// nothing that a model or a person writes can become markup. Pictures are not shown, since loading one tells its host.

const SAFE = /^(https?:|mailto:)/i;
const MAX_DEPTH = 8; // of quotes and lists; deeper ones are shown as text

const make = (tag, ...children) => {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
};

/// Text with `code`, **strong**, *emphasis*, ~~deleted~~ and [links](url).
export function inline(text, into, depth = 0) {
  const pattern = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([^*]+?)\*\*|__(?=\S)([^_]+?)__|\*(?=\S)([^*\n]+?)\*|(?<![\w])_(?=\S)([^_\n]+?)_(?![\w])|~~([^~]+?)~~|\[([^\]\n]{1,500})\]\(([^()\s]{1,2000})\)/g;
  if (depth > MAX_DEPTH || text.length > 8000) { into.append(text); return; }
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    into.append(text.slice(at, match.index));
    at = match.index + match[0].length;
    const [whole, , code, strong1, strong2, em1, em2, deleted, label, url] = match;
    if (code !== undefined) into.append(make("code", code.trim() || code));
    else if (label !== undefined) {
      if (SAFE.test(url)) {
        const link = make("a");
        link.href = url;
        link.rel = "noopener noreferrer";
        link.target = "_blank";
        inline(label, link, depth + 1);
        into.append(link);
      } else into.append(whole);
    } else {
      const tag = strong1 ?? strong2 ? "strong" : em1 ?? em2 ? "em" : "del";
      const node = make(tag);
      inline(strong1 ?? strong2 ?? em1 ?? em2 ?? deleted, node, depth + 1);
      into.append(node);
    }
  }
  into.append(text.slice(at));
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const ROW = /^\s*\|.*\|\s*$/;
const CUT = /^\s*\|(\s*:?-+:?\s*\|)+\s*$/;

/// Cuts a text into blocks, each with the lines it is made of. Only the last block can change when text is added.
export function blocks(text) {
  const lines = text.split("\n");
  const found = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    const from = i;
    const fence = line.match(FENCE);
    if (!line.trim()) { i++; continue; }
    if (fence) {
      const end = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
      i++;
      while (i < lines.length && !end.test(lines[i])) i++;
      found.push({ kind: "code", language: fence[2], lines: lines.slice(from + 1, i) });
      i++;
    } else if (HEADING.test(line)) { found.push({ kind: "heading", lines: [line] }); i++; }
    else if (RULE.test(line)) { found.push({ kind: "rule", lines: [line] }); i++; }
    else if (/^ {0,3}>/.test(line)) {
      while (i < lines.length && /^ {0,3}>/.test(lines[i])) i++;
      found.push({ kind: "quote", lines: lines.slice(from, i) });
    } else if (ROW.test(line) && CUT.test(lines[i + 1] ?? "")) {
      i += 2;
      while (i < lines.length && ROW.test(lines[i])) i++;
      found.push({ kind: "table", lines: lines.slice(from, i) });
    } else if (ITEM.test(line)) {
      i++;
      while (i < lines.length && (ITEM.test(lines[i]) || /^\s+\S/.test(lines[i]) ||
        (!lines[i].trim() && (ITEM.test(lines[i + 1] ?? "") || /^\s+\S/.test(lines[i + 1] ?? ""))))) i++;
      found.push({ kind: "list", lines: lines.slice(from, i) });
    } else {
      i++;
      while (i < lines.length && lines[i].trim() && !FENCE.test(lines[i]) && !HEADING.test(lines[i]) &&
        !RULE.test(lines[i]) && !/^ {0,3}>/.test(lines[i]) && !ITEM.test(lines[i])) i++;
      found.push({ kind: "paragraph", lines: lines.slice(from, i) });
    }
  }
  return found;
}

function list(lines, depth) {
  const first = lines[0].match(ITEM);
  const ordered = /\d/.test(first[2]);
  const node = make(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(first[2], 10);
  const indent = first[1].length;
  let item = null;
  const close = () => {
    if (!item) return;
    const li = make("li");
    const [head, ...rest] = item;
    inline(head, li);
    const inner = rest.map((line) => line.slice(Math.min(line.search(/\S|$/), indent + 2)));
    if (inner.some((line) => line.trim())) li.append(render(inner.join("\n"), depth + 1));
    node.append(li);
  };
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match && match[1].length <= indent + 1) { close(); item = [match[3]]; }
    else if (item) item.push(line);
  }
  close();
  return node;
}

function table(lines) {
  const cells = (line) => line.trim().slice(1, -1).split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
  const row = (line, tag) => {
    const tr = make("tr");
    for (const cell of cells(line)) { const node = make(tag); inline(cell, node); tr.append(node); }
    return tr;
  };
  const box = make("div", make("table", make("thead", row(lines[0], "th")), make("tbody", ...lines.slice(2).map((line) => row(line, "td")))));
  box.className = "table";
  box.tabIndex = 0;
  return box;
}

function code(block) {
  const text = block.lines.join("\n");
  const box = make("div", make("pre", make("code", text)));
  box.className = "block";
  box.firstChild.tabIndex = 0;
  const copy = make("button", "Copy");
  copy.type = "button";
  copy.className = "copy";
  copy.setAttribute("aria-label", block.language ? `Copy ${block.language} code` : "Copy code");
  copy.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  box.append(copy);
  return box;
}

export function element(block, depth = 0) {
  const text = () => block.lines.join("\n");
  if (depth > MAX_DEPTH) return make("p", text());
  switch (block.kind) {
    case "code": return code(block);
    case "rule": return make("hr");
    case "quote": return make("blockquote", render(block.lines.map((line) => line.replace(/^ {0,3}> ?/, "")).join("\n"), depth + 1));
    case "list": return list(block.lines, depth);
    case "table": return table(block.lines);
    case "heading": {
      const [, marks, title] = block.lines[0].match(HEADING);
      const node = make(`h${Math.min(marks.length + 2, 6)}`);
      inline(title, node);
      return node;
    }
    default: {
      const node = make("p");
      node.dir = "auto";
      block.lines.forEach((line, index) => {
        if (index) node.append(/ {2,}$|\\$/.test(block.lines[index - 1]) ? make("br") : "\n");
        inline(line, node);
      });
      return node;
    }
  }
}

/// A whole text.
export function render(text, depth = 0) {
  const fragment = document.createDocumentFragment();
  for (const block of blocks(text)) fragment.append(element(block, depth));
  return fragment;
}

/// A text that grows: blocks that are complete are made once.
export class Growing {
  constructor(into) { this.into = into; this.done = 0; }
  update(text) {
    const all = blocks(text);
    while (this.into.childNodes.length > this.done) this.into.lastChild.remove();
    for (let i = this.done; i < all.length; i++) this.into.append(element(all[i]));
    this.done = Math.max(0, all.length - 1);
  }
}
