// Colours for code: comments, strings, numbers and words that most languages share. No grammar of any language is known;
// what is uncertain stays plain. Each character is looked at once.

const WORDS = new Set(("abstract and as assert async await bool boolean break case catch char class const continue def default del do double " +
  "elif else enum except export extends false finally float fn for from func function global go if impl implements import in int interface " +
  "is lambda let loop long match mod module mut namespace new nil none not null object of or override package pass private protected pub " +
  "public raise readonly ref return self short static str string struct super switch then this throw throws trait true try type typeof " +
  "undefined union unless unsafe unsigned until use using var virtual void volatile where while with yield").split(" "));
const SQL = new Set(("select from where and or not null insert into values update set delete create table drop alter join left right inner outer on " +
  "group by order limit having distinct as is in like between union all case when then else end primary key").split(" "));
const HASH = new Set(["python", "py", "bash", "sh", "shell", "zsh", "ruby", "rb", "yaml", "yml", "toml", "r", "perl", "make", "makefile", "dockerfile", "ini", "conf", "console"]);
const PLAIN = new Set(["text", "txt", "plain", "plaintext", "output", "markdown", "md", "csv", "diff", "html", "xml", "svg"]);
const MOST = 50_000; // characters

/// Puts `text` into `into`, with coloured pieces; says how many elements it made.
export function highlight(text, language, into) {
  if (!language || PLAIN.has(language) || text.length > MOST) { into.append(text); return 0; }
  const sql = language.includes("sql");
  let made = 0;
  let plain = 0; // where the piece without colour begins
  let i = 0;
  const piece = (end, kind) => {
    if (plain < i) into.append(text.slice(plain, i));
    const span = document.createElement("span");
    span.className = `t-${kind}`;
    span.textContent = text.slice(i, end);
    into.append(span);
    made++;
    i = plain = end;
  };
  const lineEnd = (from) => { const end = text.indexOf("\n", from); return end < 0 ? text.length : end; };
  while (i < text.length) {
    const c = text[i];
    const two = text.slice(i, i + 2);
    if ((c === "#" && HASH.has(language)) || (two === "//" && !HASH.has(language)) || (two === "--" && (sql || language === "lua" || language === "haskell"))) {
      piece(lineEnd(i), "comment");
    } else if (two === "/*" && !HASH.has(language)) {
      const end = text.indexOf("*/", i + 2);
      piece(end < 0 ? text.length : end + 2, "comment");
    } else if (c === '"' || c === "`" || (c === "'" && language !== "rust" && language !== "rs")) {
      const long = text.slice(i, i + 3) === c.repeat(3);
      let end = i + (long ? 3 : 1);
      while (end < text.length && (long ? text.slice(end, end + 3) !== c.repeat(3) : text[end] !== c && (c === "`" || text[end] !== "\n"))) end += text[end] === "\\" ? 2 : 1;
      piece(Math.min(text.length, end + (long ? 3 : 1)), "string");
    } else if (/[A-Za-z_$]/.test(c)) {
      let end = i + 1;
      while (end < text.length && /[\w$]/.test(text[end])) end++;
      const word = text.slice(i, end);
      if (sql ? SQL.has(word.toLowerCase()) : WORDS.has(word) || ["None", "True", "False", "Self", "String"].includes(word)) piece(end, "word");
      else if (text[end] === "(") piece(end, "call");
      else i = end;
    } else if (/[0-9]/.test(c)) {
      let end = i + 1;
      while (end < text.length && /[\w.]/.test(text[end])) end++;
      piece(end, "number");
    } else i++;
  }
  into.append(text.slice(plain));
  return made;
}
