// What the page asks of the server it came from, and every way in which that fails.

/// The server answered, but not with what was asked for.
export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = error?.code ?? "";
    this.detail = error ?? {};
  }
}

/// The server did not answer, or stopped in the middle.
export class Gone extends Error {}

/// What is said about where answers come from.
export const words = { waiting: "Waiting for the server …", loading: "The model is being loaded …", gone: "The server does not answer. Trying again …" };

let key = "";

/// The key that is sent from now on. False if no key looks like that: a header holds printable ASCII only.
export function useKey(text) {
  if (!/^[!-~]*$/.test(text)) return false;
  key = text;
  return true;
}

async function ask(path, options = {}) {
  const headers = { ...(options.body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try { answer = await fetch(path, { ...options, headers }); } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("The server does not answer.");
  }
  if (!answer.ok) throw new Refusal(answer.status, (await answer.json().catch(() => null))?.error);
  return answer;
}

/// "ready", "loading" or "gone".
export async function health() {
  try { await ask("health"); return "ready"; } catch (error) { return error instanceof Refusal && error.status === 503 ? "loading" : "gone"; }
}

export const props = async () => (await ask("props")).json();

/// How many tokens a prompt has.
export const count = async (body) => (await (await ask("tokenize", { method: "POST", body: JSON.stringify(body) })).json()).count;

/// Calls `each` with every event of a stream. Seeds are texts on both sides: numbers of JavaScript have 53 bits.
export async function stream(path, { seed, ...body }, signal, each) {
  const json = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true }, return_progress: true });
  const answer = await ask(path, { method: "POST", body: seed === undefined ? json : `${json.slice(0, -1)},"seed":${seed}}`, signal });
  const reader = answer.body.getReader();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let rest = "";
  for (;;) {
    let part;
    try { part = await reader.read(); } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Gone("The server went away in the middle of the answer.");
    }
    rest += decoder.decode(part.value, { stream: !part.done });
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const data = event.slice(6);
      if (data === "[DONE]") return;
      const value = JSON.parse(data);
      if (value.error) throw new Refusal(500, value.error);
      if (value.sherry) value.seed = /"sherry":\{"seed":(\d+)/.exec(data)?.[1];
      each(value);
    }
    if (part.done) throw new Gone("The server went away in the middle of the answer.");
  }
}
