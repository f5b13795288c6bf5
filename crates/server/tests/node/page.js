// The chat page in headless Chromium. node page.js CHROMIUM PICTURES CHAT TEXT CLOSED: the program, a folder for
// screenshots, and the addresses of a server that chats, of one without a chat template, and of one that wants the key
// "secret". Prints "ok NAME" for each part.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [program, pictures, chat, text, closed] = process.argv.slice(2);
const origins = new Set([chat, text, closed].map((address) => `http://${address}`));

let browser;
const strange = []; // requests beyond our origin, and errors of the page

/// A fresh browser profile with the page of `address` in it.
async function open(address, { before = null, wait = true, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, permissions: ["clipboard-read", "clipboard-write"], ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("request", (request) => { const url = new URL(request.url()); if (!origins.has(url.origin) && !["data:", "blob:"].includes(url.protocol)) strange.push(request.url()); });
  page.on("pageerror", (error) => strange.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error" && !/Failed to load resource|net::ERR/.test(message.text())) strange.push(message.text()); });
  if (before) await page.addInitScript(before);
  await page.goto(`http://${address}/`);
  if (wait) await page.waitForSelector("#send:not([disabled])");
  return page;
}

const idle = (page) => page.waitForSelector("#send:not([hidden])");
const picture = (page, name) => page.screenshot({ path: `${pictures}/${name}.png` });
async function say(page, words) {
  await page.fill("#input", words);
  await page.press("#input", "Enter");
}
async function ask(page, words) { await say(page, words); await page.waitForSelector("article.assistant"); await idle(page); }
const answers = (page) => page.locator("article.assistant .body");
async function set(page, values) {
  await page.click("#settings-button");
  for (const [name, value] of Object.entries(values)) { await page.fill(`#${name}`, String(value)); await page.dispatchEvent(`#${name}`, "change"); }
  await page.click("#settings-close");
}
/// Puts conversations into the page as a file.
async function give(page, conversations) {
  const file = JSON.stringify({ format: "sherry-conversations-1", conversations });
  await page.setInputFiles("#import", { name: "conversations.json", mimeType: "application/json", buffer: Buffer.from(file) });
  await page.waitForSelector("#toast span");
}
const talkOf = (title, ...contents) => ({ title, messages: contents.map((content, index) => ({ role: index % 2 ? "assistant" : "user", content })) });

const MARKDOWN = `# A heading

Some **bold**, *slanted* and \`code\`, and a [link](https://example.org/).

1. first
2. second
   - inside

> A quote of two lines,
> the second.

| Drink | Caffeine |
| --- | ---: |
| tea | 40 mg |
| coffee | 95 mg |

\`\`\`python
def add(a, b):  # the sum
    return a + b
\`\`\`
`;

const parts = {
  async "the page loads and says what it serves"() {
    const page = await open(chat);
    assert.equal(await page.title(), "Sherry");
    assert.match(await page.textContent("#model"), /tiny · .* parameters · 8 bits per weight/);
    assert.equal(await page.locator(".card").count(), 4);
    assert.equal(await page.locator("h1").count(), 1);
    for (const part of ["main", "aside", "nav", "header", "form"]) assert.ok(await page.locator(part).count(), part);
    assert.ok(await page.evaluate(() => document.activeElement.id === "input"));
    await picture(page, "empty-light-1280");
    await page.context().close();
  },

  async "a message is answered as a stream, with its numbers"() {
    const page = await open(chat);
    await say(page, "hello");
    await page.waitForSelector("#stop:not([hidden])");
    await page.waitForFunction(() => document.querySelector("article.assistant .body").textContent.length > 0);
    assert.ok(await page.isVisible("#stop"), "it is still being written");
    await idle(page);
    assert.match(await page.textContent("article.assistant .numbers summary"), /tokens/);
    await page.click("article.assistant .numbers summary");
    const facts = await page.textContent("article.assistant .numbers dl");
    for (const what of ["Prompt", "First token after", "Answer speed", "Seed", "Context used"]) assert.ok(facts.includes(what), what);
    assert.match(await page.textContent("#meter"), /of 512 tokens of context/);
    assert.equal(await page.textContent("#title"), "hello");
    await page.context().close();
  },

  async "an answer is stopped and goes on"() {
    const page = await open(chat);
    await set(page, { temperature: 0 }); // this model's likeliest text has no end
    await say(page, "hello");
    await page.waitForFunction(() => document.querySelector("article.assistant .body")?.textContent.length > 20);
    await page.press("#input", "Escape");
    await idle(page);
    const before = (await answers(page).textContent()).trim();
    assert.match(await page.textContent("article.assistant .tools"), /Stopped/);
    const [request] = await Promise.all([page.waitForRequest(/completions/), page.click('[aria-label="Continue this answer"]')]);
    const { messages, continue_final_message: goOn } = request.postDataJSON();
    assert.ok(goOn);
    assert.equal(messages.at(-1).role, "assistant");
    assert.equal(messages.at(-1).content.trim(), before, "what stands is what goes on");
    await idle(page);
    // This model may go on with signs that nobody sees, so what counts is that the text stands and tokens were added.
    assert.ok((await answers(page).textContent()).startsWith(before));
    assert.match(await page.textContent("article.assistant .numbers dl"), /Answer[1-9]/);
    assert.equal(await answers(page).count(), 1);
    await page.context().close();
  },

  async "answers are written again, messages are changed, and every version stays"() {
    const page = await open(chat);
    await set(page, { max_tokens: 20, temperature: 5 });
    await ask(page, "one");
    const first = await answers(page).textContent();
    await page.click('[aria-label="Regenerate this answer"]');
    await page.waitForSelector(".versions");
    await idle(page);
    assert.equal((await page.textContent("article.assistant .versions")).trim(), "2/2");
    await page.click('[aria-label="Previous version"]');
    assert.equal(await answers(page).textContent(), first);
    await page.click('[aria-label="Edit this message"]');
    await page.fill(".edit", "two");
    await page.press(".edit", "Enter");
    await page.waitForSelector("article.user .versions");
    await idle(page);
    assert.equal(await page.textContent("article.user .body"), "two");
    await page.click('article.user [aria-label="Previous version"]');
    assert.equal(await page.textContent("article.user .body"), "one");
    assert.equal(await answers(page).count(), 1);
    await page.context().close();
  },

  async "the same seed gives the same answer, and copying copies"() {
    const page = await open(chat);
    await set(page, { max_tokens: 24, temperature: 3 });
    await ask(page, "a");
    const first = await answers(page).textContent();
    await page.click("article.assistant .numbers summary");
    await page.click("text=Answer again with this seed");
    await page.waitForSelector(".versions");
    await idle(page);
    assert.equal(await answers(page).textContent(), first);
    await give(page, [talkOf("copied", "q", "**bold** answer")]);
    await page.click('#list [title="copied"]');
    await page.click('[aria-label="Copy this answer"]');
    await page.waitForFunction(() => navigator.clipboard.readText().then((text) => text === "**bold** answer"));
    await page.context().close();
  },

  async "conversations are named, deleted, brought back, exported and imported"() {
    const page = await open(chat);
    await set(page, { max_tokens: 8 });
    await ask(page, "first talk");
    await page.keyboard.press("Alt+n");
    await ask(page, "second talk");
    assert.equal(await page.locator("#list li").count(), 2);
    await page.click('[aria-label="Rename first talk"]');
    await page.keyboard.type("a better name");
    await page.keyboard.press("Enter");
    await page.waitForSelector('#list [title="a better name"]');
    await page.click('[aria-label="Delete second talk"]');
    await page.waitForSelector('#list [title="second talk"]', { state: "detached" });
    await page.click("#toast >> text=Undo");
    await page.waitForSelector('#list [title="second talk"]');
    const download = page.waitForEvent("download");
    await page.click("#export");
    const file = await (await download).path();
    const exported = JSON.parse(fs.readFileSync(file, "utf8"));
    assert.equal(exported.conversations.length, 2);
    const other = await open(chat);
    await other.setInputFiles("#import", { name: "x.json", mimeType: "application/json", buffer: fs.readFileSync(file) });
    await other.waitForSelector('#list [title="a better name"]');
    for (const bad of ["{", "{}", '{"format":"sherry-conversations-1","conversations":[{"messages":[{"role":"wizard"}]}]}']) {
      await other.setInputFiles("#import", { name: "x.json", mimeType: "application/json", buffer: Buffer.from(bad) });
      await other.waitForFunction(() => /could not be imported/.test(document.querySelector("#toast").textContent));
      await other.evaluate(() => document.querySelector("#toast").replaceChildren());
    }
    await page.context().close();
    await other.context().close();
  },

  async "conversations outlive the page, and settings too"() {
    const page = await open(chat);
    await set(page, { max_tokens: 8, temperature: 0.5 });
    await ask(page, "remember me");
    const answer = await answers(page).textContent();
    await page.reload();
    await page.waitForSelector("#send:not([disabled])");
    await page.click('#list [title="remember me"]');
    assert.equal(await answers(page).textContent(), answer);
    assert.equal(await page.inputValue("#temperature"), "0.5");
    await page.context().close();
    const private_ = await open(chat, { before: () => { Object.defineProperty(window, "indexedDB", { get() { throw new Error("private"); } }); } });
    await private_.waitForSelector("#private:not([hidden])");
    await ask(private_, "in memory only");
    assert.equal(await private_.locator("#list li").count(), 1);
    await private_.context().close();
  },

  async "everything works by keyboard"() {
    const page = await open(chat);
    await set(page, { max_tokens: 8 });
    await page.focus("#input");
    await page.keyboard.type("line one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("line two");
    assert.equal(await page.inputValue("#input"), "line one\nline two");
    await page.keyboard.press("Enter");
    await page.waitForSelector("article.assistant");
    await idle(page);
    // Every control is reached by Tab, and what has the focus can be seen.
    const wanted = new Set(["new", "export", "import-button", "theme", "settings-button", "input", "send"]);
    await page.evaluate(() => document.body.focus());
    for (let i = 0; i < 60 && wanted.size; i++) {
      await page.keyboard.press("Tab");
      const [id, seen] = await page.evaluate(() => {
        const style = getComputedStyle(document.activeElement);
        const around = document.activeElement.closest("form") ? getComputedStyle(document.activeElement.closest("form")) : style;
        return [document.activeElement.id, style.outlineStyle !== "none" || style.boxShadow !== "none" || around.outlineStyle !== "none" || around.boxShadow !== "none"];
      });
      if (wanted.delete(id)) assert.ok(seen, `the focus on #${id} cannot be seen`);
    }
    assert.deepEqual([...wanted], []);
    await page.focus("#settings-button");
    await page.keyboard.press("Enter");
    assert.ok(await page.isVisible("#settings"));
    await page.keyboard.press("Escape");
    assert.ok(!await page.isVisible("#settings"));
    await page.keyboard.press("Alt+n");
    assert.equal(await page.locator("article").count(), 0);
    assert.ok(await page.evaluate(() => document.activeElement.id === "input"));
    await page.context().close();
  },

  async "narrow windows, zoom, colours, little motion and scripts from right to left"() {
    for (const [width, colorScheme] of [[320, "light"], [320, "dark"], [640, "light"], [1280, "dark"]]) {
      const page = await open(chat, { viewport: { width, height: 640 }, colorScheme, reducedMotion: "reduce" });
      const talk = [talkOf("A talk about markdown", "Show me **everything**", MARKDOWN, "שלום עולם", "مرحبا بالعالم")];
      await give(page, talk);
      if (width < 700) await page.click("#menu");
      await page.click('#list [title="A talk about markdown"]');
      await page.waitForSelector("article.assistant table");
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${width}: wider than the window`);
      assert.equal(await page.locator("article.user .body").nth(1).evaluate((e) => getComputedStyle(e).direction), "rtl");
      const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).slice(0, 3).map(Number));
      const light = background.reduce((a, b) => a + b) / 3 > 128;
      assert.equal(light, colorScheme === "light", String(background));
      const moving = await page.evaluate(() => document.getAnimations().filter((a) => a.playState === "running").length);
      assert.equal(moving, 0, "animations run");
      await page.evaluate(() => { document.querySelector("#scroll").scrollTop = 0; });
      await page.waitForTimeout(100);
      await picture(page, `talk-${colorScheme}-${width}`);
      await page.context().close();
    }
    const page = await open(chat, { colorScheme: "light" });
    await page.click("#theme");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    await page.context().close();
  },

  async "nobody who uses other means is left out"() {
    for (const width of [320, 1280]) {
      for (const colorScheme of ["light", "dark"]) {
        const page = await open(chat, { viewport: { width, height: 800 }, colorScheme, reducedMotion: "reduce", bypassCSP: true });
        await page.evaluate(axe);
        const check = async (what) => {
          const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }));
          assert.deepEqual(violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 160))]), [], `${what} ${width} ${colorScheme}`);
        };
        await check("empty");
        await give(page, [talkOf("Everything", "Show me", MARKDOWN)]);
        if (width < 700) await page.click("#menu");
        await check("list");
        await page.click('#list [title="Everything"]');
        await page.waitForTimeout(50);
        await check("conversation");
        await page.click("#settings-button");
        await check("settings");
        await picture(page, `settings-${colorScheme}-${width}`);
        await page.context().close();
      }
    }
  },

  async "text of a model stays text"() {
    const page = await open(chat, { before: () => { window.hit = 0; } });
    const hostile = [
      '<img src=x onerror="window.hit=1">', "<script>window.hit=1</script>", "[x](javascript:window.hit=1)", "[x](JaVaScRiPt:window.hit=1)", "[x](data:text/html,<script>window.hit=1</script>)",
      "![x](https://example.org/x.png)", "<svg onload=window.hit=1>", "[x](https://example.org/\" onclick=\"window.hit=1)", "`<b>`", "```html\n<img src=x onerror=window.hit=1>\n```", "[x](vbscript:hit)", "<https://example.org/>", "&lt;b&gt; &#60;",
      "| <b> | [x](javascript:hit=1) |\n|---|---|\n| <i> | x |", "[x]( javascript:hit=1 )", "[x](\\u006aavascript:hit=1)", "<a href=javascript:hit=1>x</a>",
    ];
    await give(page, [talkOf("hostile", "q", hostile.join("\n\n"))]);
    await page.click('#list [title="hostile"]');
    await page.waitForTimeout(300);
    const found = await page.evaluate(() => {
      const body = document.querySelector("article.assistant .body");
      return {
        hit: window.hit,
        elements: [...body.querySelectorAll("img, script, svg, iframe, object, embed, style, link, form, input, video, audio, base, meta")].filter((e) => !e.closest("button")).length,
        links: [...body.querySelectorAll("a")].map((a) => [a.protocol, a.rel]),
        handlers: [...body.querySelectorAll("*")].flatMap((e) => e.getAttributeNames()).filter((name) => name.startsWith("on")),
      };
    });
    assert.equal(found.hit, 0);
    assert.equal(found.elements, 0);
    assert.deepEqual(found.handlers, []);
    assert.ok(found.links.length > 0 && found.links.every(([protocol, rel]) => ["http:", "https:", "mailto:"].includes(protocol) && /noopener/.test(rel)), JSON.stringify(found.links));
    // In one's own message nothing is markdown at all.
    await give(page, [talkOf("own", hostile.join("\n"), "fine")]);
    await page.click('#list [title="own"]');
    assert.equal(await page.textContent("article.user .body"), hostile.join("\n"));
    await page.context().close();
  },

  async "large and nested text keeps the page alive"() {
    const page = await open(chat);
    const texts = { quotes: ">".repeat(100_000), line: "word ".repeat(200_000), stars: "*".repeat(100_000), brackets: "[".repeat(100_000), lists: Array.from({ length: 2000 }, (_, i) => `${" ".repeat(i)}- x`).join("\n"), table: `${"|a".repeat(5000)}|\n${"|-".repeat(5000)}|\n`, ticks: "`".repeat(100_001), code: "` `` ".repeat(20_000), slanted: "*a* ".repeat(50_000) };
    for (const [name, content] of Object.entries(texts)) {
      await give(page, [talkOf(name, "q", content)]);
      const began = Date.now();
      await page.click(`#list [title="${name}"]`);
      await page.waitForFunction((name) => document.querySelector("#title").textContent === name && document.querySelector("article.assistant"), name);
      assert.ok(Date.now() - began < 5000, `${name}: ${Date.now() - began} ms`);
    }
    await page.context().close();
  },

  async "a model that continues texts is given texts"() {
    const page = await open(text);
    assert.match(await page.textContent(".greeting"), /Continue a text/);
    await set(page, { max_tokens: 20 });
    await say(page, "Once");
    await page.waitForSelector("article.text .written");
    await idle(page);
    const whole = await page.textContent("article.text .body");
    assert.ok(whole.startsWith("Once") && whole.length > 10, whole);
    await page.click('[aria-label="Continue this text"]');
    await page.waitForFunction((length) => document.querySelector("article.text .body").textContent.length > length, whole.length);
    await idle(page);
    await picture(page, "text-light-1280");
    await page.context().close();
  },

  async "a key is asked for, refused and taken"() {
    const page = await open(closed, { wait: false });
    await page.waitForSelector("#key", { state: "visible" });
    await picture(page, "key-light-1280");
    await page.fill("#key", "wrong");
    await page.click("#key-use");
    await page.waitForFunction(() => /does not take/.test(document.querySelector("#key-problem").textContent));
    await page.fill("#key", "secret");
    await page.click("#key-use");
    await page.waitForSelector("#send:not([disabled])");
    assert.ok(!await page.isVisible("#settings"));
    assert.equal(await page.evaluate(() => localStorage.getItem("key")), null, "it is kept only where one asks for it");
    await page.context().close();
  },

  async "a server that is away, loads or refuses is told from one that answers"() {
    const page = await open(chat, { wait: false, before: null });
    await page.waitForSelector("#send:not([disabled])");
    await set(page, { max_tokens: 8 });
    await page.route("**/v1/**", (route) => route.abort());
    await say(page, "are you there");
    await page.waitForSelector(".problem");
    assert.match(await page.textContent(".problem"), /does not answer/);
    await picture(page, "gone-light-1280");
    await page.unroute("**/v1/**");
    await page.click(".problem button.primary");
    await page.waitForSelector("article.assistant");
    await idle(page);
    assert.ok((await answers(page).textContent()).length > 0);
    await page.context().close();
    // Away and loading when the page is opened, then back.
    const context = await browser.newContext();
    const late = await context.newPage();
    let state = "gone";
    await late.route("**/health", (route) => {
      if (state === "gone") return route.abort();
      if (state === "loading") return route.fulfill({ status: 503, contentType: "application/json", body: '{"error":{"message":"loading","code":"loading"}}' });
      return route.continue();
    });
    await late.goto(`http://${chat}/`);
    await late.waitForFunction(() => /does not answer/.test(document.querySelector("#status").textContent));
    state = "loading";
    await late.waitForFunction(() => /being loaded/.test(document.querySelector("#status").textContent));
    state = "ready";
    await late.waitForSelector("#send:not([disabled])");
    assert.equal(await late.textContent("#status"), "");
    await context.close();
  },

  async "a full context is said, and oldest turns go only when one says so"() {
    const page = await open(chat);
    await set(page, { max_tokens: 8 });
    const long = "word ".repeat(40).trim();
    for (let i = 0; i < 2; i++) { await ask(page, `${i} ${long}`); }
    await say(page, `end ${long}`);
    await page.waitForSelector(".problem");
    assert.match(await page.textContent(".problem"), /longer than the model can read/);
    assert.equal(await page.locator("article.user").count(), 3);
    await picture(page, "full-light-1280");
    await page.click(".problem button.primary");
    await page.waitForSelector(".divider");
    await idle(page);
    await page.waitForFunction(() => document.querySelectorAll("article.assistant").length === 3);
    assert.equal(await page.locator("article.user").count(), 3, "they are still shown");
    await page.context().close();
  },
};

(async () => {
  browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
  const only = process.env.PART;
  for (const [name, part] of Object.entries(parts)) {
    if (only && !name.includes(only)) continue;
    try { await part(); } catch (error) { console.error(`in "${name}"`); throw error; }
    assert.deepEqual(strange, [], `requests to others, or errors, in "${name}"`);
    console.log(`ok ${name}`);
  }
  await browser.close();
})().catch((error) => { console.error(error.stack); process.exit(1); });
