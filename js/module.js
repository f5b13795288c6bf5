// The functions of sherry.wasm, which are those of sherry.h: structures are written and read here, and nowhere else.

import { SherryError } from "./errors.js";

const CODES = ["", "invalid", "invalid", "model", "memory", "context", "crashed", "invalid"];
const FINISH = ["", "stop", "length", "context", "cancelled"];
const SPACE = 7;

// Bytes of the structures, whose pointers have four.
const OPTIONS = 28;
const PART = 20;
const REQUEST = 40;
const INFO = 48;
const SAMPLING = 56;
const EVENT = 36;

// Of a thread; of the memory that threads share as js/build says.
const STACK = 1 << 20;
const SHARED_PAGES = 128;

// Pointers are numbers without a sign: above 2 GiB JavaScript would see them as negative.
const address = (value) => value >>> 0;

/// One instance of the module, with one model in it. What traps has no instance any more.
export class Module {
  #exports;
  #memory;
  #crashed = null;
  #scratch = []; // what a call needs while it runs
  #encoder = new TextEncoder();
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  /// `reserve` bytes lie unused before everything else, which tests of large addresses want. With `memory` it is the module of several
  /// threads.
  constructor(compiled, { reserve = 0, memory = null } = {}) {
    try { this.#exports = new WebAssembly.Instance(compiled, memory ? { env: { memory } } : {}).exports; } catch (error) {
      throw new SherryError("memory", `The module could not be started: ${error.message}`, { cause: error });
    }
    this.#memory = memory ?? this.#exports.memory;
    for (let left = reserve; left > 0; left -= 1 << 30) {
      if (!this.#call("alloc", Math.min(left, 1 << 30))) throw new SherryError("memory", `There is no room for ${reserve} bytes.`);
    }
  }

  /// Bytes of linear memory, which never become fewer.
  get memory() { return this.#memory.buffer.byteLength; }

  /// Memory for several threads: as much as can be had, since it cannot be more later.
  static shared() {
    for (let maximum = 1 << 16; ; maximum /= 2) {
      try { return new WebAssembly.Memory({ initial: SHARED_PAGES, maximum, shared: true }); } catch (error) { if (maximum <= 1 << 13) throw error; }
    }
  }

  /// Room for one more thread.
  thread() {
    const room = (length) => {
      const start = address(this.#call("alloc", length));
      if (!start) throw new SherryError("memory", "There is no room for a thread.");
      return start;
    };
    return { stack: room(STACK) + STACK, storage: room(this.#exports.__tls_size.value) };
  }

  /// Lives as a thread of the module that made `room`, until its session ends. Whether there was still one to live for.
  static live(compiled, memory, { stack, storage }) {
    const { exports } = new WebAssembly.Instance(compiled, { env: { memory } });
    exports.__stack_pointer.value = stack;
    exports.__wasm_init_tls(storage);
    return exports.sherry_worker() === 1;
  }

  // Memory may have moved since the last call: views are made anew.
  #view() { return new DataView(this.#memory.buffer); }
  bytes(start, length) { return new Uint8Array(this.#memory.buffer, start, length); }

  /// Calls a function of the module; frees what was made for it.
  #call(name, ...values) {
    if (this.#crashed) throw this.#crashed;
    try { return this.#exports[`sherry_${name}`](...values); } catch (error) {
      this.#crashed = new SherryError("crashed", `The model ran into a fault or out of memory (${error.message}). Load it again.`, { cause: error });
      throw this.#crashed;
    }
  }

  /// Runs `work` and frees what it has made room for.
  #with(work) {
    const outer = this.#scratch;
    this.#scratch = [];
    try { return work(); } finally {
      if (!this.#crashed) for (const [start, length] of this.#scratch) this.#call("dealloc", start, length);
      this.#scratch = outer;
    }
  }

  #alloc(length) {
    const start = address(this.#call("alloc", length));
    if (!start) throw new SherryError("memory", `There is no room for ${length} bytes.`);
    this.#scratch.push([start, length]);
    return start;
  }

  #structure(size) {
    const start = this.#alloc(size);
    this.bytes(start, size).fill(0);
    this.#view().setUint32(start, size, true);
    return start;
  }

  #text(text) {
    const bytes = this.#encoder.encode(text);
    const start = this.#alloc(bytes.length);
    this.bytes(start, bytes.length).set(bytes);
    return [start, bytes.length];
  }

  #tokens(ids) {
    const start = this.#alloc(ids.length * 4);
    const view = this.#view();
    ids.forEach((id, index) => view.setUint32(start + 4 * index, id, true));
    return [start, ids.length];
  }

  // A copy: browsers decode no shared memory.
  #read(start, length) { return this.#decoder.decode(this.bytes(start, length).slice()); }

  #fail(status) {
    const message = this.#with(() => {
      const length = this.#alloc(4);
      const start = address(this.#call("last_error", length));
      return this.#read(start, this.#view().getUint32(length, true));
    });
    throw new SherryError(CODES[status] ?? "crashed", message);
  }

  #check(status) { if (status !== 0) this.#fail(status); }

  /// The handle that a function gives.
  #handle(work) {
    return this.#with(() => {
      const place = this.#alloc(4);
      this.#check(work(place));
      return address(this.#view().getUint32(place, true));
    });
  }

  /// The date that chat templates print.
  setDate(date) {
    this.#call("set_date", date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds());
  }

  /// Loads a model of `files` ({ name, size, read(offset, into) }), of which only those ranges are read that are needed, one after the
  /// other. `progress` gets bytes done and in all.
  async load(files, { kv = 0, scalar = false, threads = 1 } = {}, progress = () => {}) {
    const loading = this.#handle((place) => {
      const options = this.#structure(OPTIONS);
      this.#view().setUint32(options + 4, threads, true);
      this.#view().setUint32(options + 12, kv, true);
      this.#view().setUint32(options + 24, scalar ? 1 : 0, true);
      const parts = this.#alloc(Math.max(1, PART * files.length));
      files.forEach(({ name, size }, index) => {
        if (size > 0xFFFF_FFFF) throw new SherryError("memory", `${name} has ${size} bytes, more than a page can hold.`);
        const [text, length] = this.#text(name);
        [PART, text, length, 0, size].forEach((value, field) => this.#view().setUint32(parts + PART * index + 4 * field, value, true));
      });
      return this.#call("load_begin", parts, files.length, options, place);
    });
    let open = true;
    try {
      for (;;) {
        const wanted = this.#with(() => {
          const request = this.#structure(REQUEST);
          const more = this.#call("load_next", loading, request);
          if (more < 0) this.#fail(-more);
          if (more === 0) return null;
          const view = this.#view();
          return {
            part: view.getUint32(request + 4, true), offset: Number(view.getBigUint64(request + 8, true)),
            data: address(view.getUint32(request + 16, true)), length: view.getUint32(request + 20, true),
            done: Number(view.getBigUint64(request + 24, true)), total: Number(view.getBigUint64(request + 32, true)),
          };
        });
        if (wanted === null) break;
        progress(wanted.done, wanted.total);
        // A reader that waits gets room of its own: memory may move meanwhile.
        await files[wanted.part].read(wanted.offset, wanted.length, (bytes, at) => this.bytes(wanted.data + at, bytes.length).set(bytes));
      }
      open = false;
      return this.#handle((place) => this.#call("load_end", loading, place));
    } finally {
      if (open && !this.#crashed) this.#call("load_end", loading, 0);
    }
  }

  describe(model) {
    return this.#with(() => {
      const info = this.#structure(INFO);
      this.#check(this.#call("model_describe", model, info));
      const view = this.#view();
      const field = (index) => view.getUint32(info + 4 * index, true);
      return {
        canChat: field(1) !== 0, vocab: field(2), layers: field(3), hidden: field(4), trainedContext: field(5),
        parameters: Number(view.getBigUint64(info + 24, true)), bytes: Number(view.getBigUint64(info + 32, true)),
        description: this.#read(address(field(10)), field(11)),
      };
    });
  }

  free(model) { this.#call("model_free", model); }
  session(model, context) { return this.#handle((place) => this.#call("session_new", model, context, place)); }
  freeSession(session) { this.#call("session_free", session); }

  /// What a function writes that is asked twice: for the number of values, then for them.
  #list(work, width, read) {
    return this.#with(() => {
      const count = this.#alloc(4);
      const status = work(0, 0, count);
      const length = this.#view().getUint32(count, true);
      if (status !== SPACE) { this.#check(status); return read(0, 0); }
      const start = this.#alloc(length * width);
      this.#check(work(start, length, count));
      return read(start, length);
    });
  }

  #ids(work) {
    return this.#list(work, 4, (start, length) => {
      const view = this.#view();
      return Array.from({ length }, (_, index) => view.getUint32(start + 4 * index, true));
    });
  }

  tokenize(model, text, { addSpecial = true, parseSpecial = false } = {}) {
    return this.#with(() => {
      const [start, length] = this.#text(text);
      const flags = (addSpecial ? 1 : 0) | (parseSpecial ? 2 : 0);
      return this.#ids((out, capacity, count) => this.#call("tokenize", model, start, length, flags, out, capacity, count));
    });
  }

  detokenize(model, ids, { keepSpecial = false } = {}) {
    return this.#with(() => {
      const [start, length] = this.#tokens(ids);
      const work = (out, capacity, count) => this.#call("detokenize", model, start, length, keepSpecial ? 2 : 0, out, capacity, count);
      return this.#list(work, 1, (from, size) => this.#read(from, size));
    });
  }

  /// The prompt of a conversation, as tokens.
  prompt(model, conversation) {
    return this.#with(() => {
      const [start, length] = this.#text(JSON.stringify(conversation));
      return this.#ids((out, capacity, count) => this.#call("apply_template", model, start, length, out, capacity, count));
    });
  }

  start(session, ids, options) {
    this.#with(() => {
      const [tokens, count] = this.#tokens(ids);
      const stop = options.stop.map((text) => this.#text(text));
      const list = this.#alloc(Math.max(1, 8 * stop.length));
      const sampling = this.#structure(SAMPLING);
      const view = this.#view();
      stop.forEach(([start, length], index) => { view.setUint32(list + 8 * index, start, true); view.setUint32(list + 8 * index + 4, length, true); });
      const float = (at, value, own = -1) => view.setFloat32(sampling + at, value ?? own, true);
      const whole = (at, value) => view.setInt32(sampling + at, value ?? -1, true);
      float(4, options.temperature); float(8, options.topP); float(12, options.minP);
      whole(16, options.topK); float(20, options.repetitionPenalty); whole(24, options.repetitionWindow);
      float(28, options.presencePenalty, 0); float(32, options.frequencyPenalty, 0); whole(36, options.maxTokens);
      view.setBigUint64(sampling + 40, BigInt.asUintN(64, BigInt(options.seed ?? 0)), true);
      view.setUint32(sampling + 48, list, true);
      view.setUint32(sampling + 52, stop.length, true);
      this.#check(this.#call("start", session, tokens, count, sampling));
    });
  }

  /// The next event; null after the end.
  next(session) {
    return this.#with(() => {
      const event = this.#structure(EVENT);
      const more = this.#call("next", session, event);
      if (more < 0) this.#fail(-more);
      if (more === 0) return null;
      const view = this.#view();
      const field = (index) => view.getUint32(event + 4 * index, true);
      const text = field(8) ? this.#read(address(field(7)), field(8)) : "";
      switch (field(1)) {
        case 1: return { kind: "prompt", done: field(4), total: field(5), cached: field(6), text };
        case 2: return { kind: "token", token: field(2), text };
        default: return { kind: "end", finish: FINISH[field(3)], text };
      }
    });
  }

  cancel(session) { this.#call("cancel", session); }

  logits(session, ids, vocab) {
    return this.#with(() => {
      const [tokens, count] = this.#tokens(ids);
      const out = this.#alloc(4 * vocab);
      this.#check(this.#call("logits", session, tokens, count, out, vocab));
      return new Float32Array(this.bytes(out, 4 * vocab).slice().buffer);
    });
  }
}
