// The official OpenAI client for Node against a running server. Arguments: its address, and that of one in which few requests may
// wait. Each check prints "ok" and its name.

const assert = require("node:assert");
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: `http://${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Say something." }];
const short = { model: "tiny", messages, max_tokens: 8, temperature: 0 };
const tools = [{
  type: "function",
  function: {
    name: "light",
    parameters: { type: "object", properties: { on: { type: "boolean" } }, required: ["on"], additionalProperties: false },
  },
}];

const checks = {
  async models() {
    assert.deepStrictEqual((await client.models.list()).data.map((model) => model.id), ["tiny"]);
  },
  async streams() {
    const whole = await client.chat.completions.create(short);
    let text = "";
    let usage = null;
    for await (const chunk of await client.chat.completions.create({ ...short, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.strictEqual(text, whole.choices[0].message.content);
    assert.strictEqual(usage.total_tokens, whole.usage.total_tokens);
  },
  async aborted() {
    const controller = new AbortController();
    const stream = await client.chat.completions.create({ ...short, max_tokens: 400, stream: true }, { signal: controller.signal });
    for await (const _ of stream) {
      controller.abort();
    }
    assert.ok((await client.chat.completions.create(short)).choices.length === 1);
  },
  async toldToComeAgain() {
    const narrow = (maxRetries) => new OpenAI({ baseURL: `http://${process.argv[3]}/v1`, apiKey: "none", maxRetries });
    const all = (client) => Promise.allSettled(Array.from({ length: 32 }, (_, seed) =>
      client.chat.completions.create({ ...short, temperature: 1, seed, max_tokens: 300 })));
    const refused = (await all(narrow(0))).filter((one) => one.status === "rejected");
    assert.ok(refused.length > 0 && refused.every((one) => one.reason.status === 503));
    assert.ok((await all(narrow(20))).every((one) => one.status === "fulfilled"));
  },
  async tools() {
    const answer = await client.chat.completions.create({
      ...short, max_tokens: 200, tools, tool_choice: { type: "function", function: { name: "light" } },
    });
    const call = answer.choices[0].message.tool_calls[0];
    assert.strictEqual(call.function.name, "light");
    assert.strictEqual(typeof JSON.parse(call.function.arguments).on, "boolean");
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ ...short, temperature: -1 }), (error) =>
      error instanceof OpenAI.BadRequestError && /temperature/.test(error.message));
    await assert.rejects(client.chat.completions.create({ ...short, model: "no-such-model" }), OpenAI.NotFoundError);
  },
};

(async () => {
  for (const [name, check] of Object.entries(checks)) {
    await check();
    console.log("ok", name);
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
