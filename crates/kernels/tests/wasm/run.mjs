// Runs a WASI program (a test binary for wasm32-wasip1): node run.mjs FILE ARGUMENT...
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const [file, ...args] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args: [file, ...args] });
const program = await WebAssembly.compile(await readFile(file));

// Functions that the C library lacks, all about threads: none can be made (EAGAIN), everything else succeeds.
const EAGAIN = 6;
const missing = {};
for (const { module, name } of WebAssembly.Module.imports(program)) {
  if (module === "env") missing[name] = () => (name === "pthread_create" ? EAGAIN : 0);
}

const instance = await WebAssembly.instantiate(program, { ...wasi.getImportObject(), env: missing });
process.exitCode = wasi.start(instance);
