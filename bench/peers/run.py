#!/usr/bin/env python3
"""Sherry beside other CPU engines for ternary models: same shapes, same head, same machine, one run.

    python3 bench/peers/run.py --work DIR --llama-cpp SRC --ik-llama SRC --bitnet SRC

SRC are source folders of the engines (any subset), or folders with their programs; none of their code is part of this
repository. The script builds what it needs of each (`llama-bench`, `llama-quantize`) under DIR, makes one synthetic model with the shapes of
LLaMA-3.2-1B, quantizes it with every engine's own tool into every ternary format it has (embedding and head Q6_K
everywhere), and runs the benchmarks round by round, so that noise of the machine meets all alike. A run beside which other programs took
more than a tenth of a core is done again (on Linux, where that can be told). It prints medians and
the ratio of Sherry to the best peer. TIKTOKEN_FILE names a vocabulary (see README.md). Finished builds and models are kept in DIR. Python's standard library is enough.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Formats of 1.3 to 2.1 bits per weight, by the names of each engine's llama-quantize.
ENGINES = {
    "llama.cpp": {"flag": "--llama-cpp", "formats": ["TQ1_0", "TQ2_0"], "cmake": ["-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"]},
    "ik_llama.cpp": {"flag": "--ik-llama", "formats": ["IQ1_BN", "IQ2_BN", "IQ2_BN_R4"], "cmake": ["-DLLAMA_CURL=OFF"]},
    "bitnet.cpp": {"flag": "--bitnet", "formats": ["I2_S"], "cmake": ["-DCMAKE_C_COMPILER=clang", "-DCMAKE_CXX_COMPILER=clang++"]},
}
SHERRY = "sherry"


def run(command, **options):
    """Runs a command; shows its output only if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def say(text):
    print(text, file=sys.stderr, flush=True)


def build(name, source, work, jobs):
    """Builds llama-bench and llama-quantize of an engine, where they are not given; returns the folder of its programs."""
    if (source / "llama-bench").exists():
        return source
    folder = work / "build" / name
    programs = folder / "bin"
    if not (programs / "llama-bench").exists():
        say(f"building {name}")
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_TESTS=OFF"]
        run(["cmake", "-S", source, "-B", folder, *options, *ENGINES[name]["cmake"]])
        run(["cmake", "--build", folder, "-j", jobs, "--target", "llama-bench", "llama-quantize"])
    return programs


def dense_model(sherry, work, vocab):
    """A dense f16 GGUF with the shapes of LLaMA-3.2-1B and random weights."""
    path = work / "models" / f"v{vocab}-f16.gguf"
    if not path.exists():
        say(f"making the dense model with a vocabulary of {vocab}")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = work / "models" / f"v{vocab}"
        arguments = [folder, vocab]
        if (ranks := os.environ.get("TIKTOKEN_FILE")) is not None:
            arguments.append(Path(ranks).resolve())
        run(["cargo", "run", "--release", "-q", "-p", "sherry", "--example", "synthetic_llama", "--", *arguments], cwd=ROOT)
        run([sherry, "-q", "convert", folder, path, "--dtype", "f16", "--embed", "f16"])
        shutil.rmtree(folder)
    return path


def peer_model(programs, dense, name, form):
    """The model in one format of a peer, made by its own tool."""
    path = dense.with_name(f"{dense.stem.removesuffix('-f16')}-{name}-{form}.gguf")
    if not path.exists():
        say(f"quantizing {path.name}")
        part = path.with_suffix(".part")
        types = ["--token-embedding-type", "q6_K", "--output-tensor-type", "q6_K"]
        run([programs / "llama-quantize", "--allow-requantize", *types, dense, part, form])
        part.rename(path)
    return path


def sherry_model(sherry, dense, form):
    """The model in one of our formats."""
    path = dense.with_name(f"{dense.stem.removesuffix('-f16')}-sherry-{form}")
    if not path.exists():
        say(f"quantizing {path.name}")
        run([sherry, "-q", "quantize", dense, path, "--type", form, "--embed", "q6_k"])
    return path


def stq_model(sherry, dense):
    """The model as an STQ1_0 file, which we write and a patched llama.cpp reads."""
    path = dense.with_name(f"{dense.stem.removesuffix('-f16')}-stq1_0.gguf")
    if not path.exists():
        run([sherry, "-q", "quantize", dense, path, "--embed", "q6_k"])
    return path


def llama_bench(programs, model, threads, test):
    """Tokens per second of one run of one test, `pp512` or `tg64`."""
    kind, count = test[:2], test[2:]
    counts = ["-p", count, "-n", "0"] if kind == "pp" else ["-p", "0", "-n", count]
    # A large stack: bitnet.cpp keeps a whole batch of the feed-forward on it.
    command = [programs / "llama-bench", "-m", model, "-t", str(threads), *counts, "-r", "1", "-o", "json"]
    out = run(["bash", "-c", 'ulimit -s 1000000 2>/dev/null; exec "$@"', "bash", *command])
    return float(json.loads(out[out.index("[") :])[0]["avg_ts"])


def sherry_bench(sherry, model, threads, test, isa, head="whole"):
    """The same for our program, with the whole head or the two-stage one."""
    kind, count = test[:2], test[2:]
    counts = ["-p", count, "-n", "0"] if kind == "pp" else ["-p", "0", "-n", count]
    command = [sherry, "--json", "-q", "bench", model, "-t", threads, *counts, "-r", "1", "--isa", isa, "--head", head]
    return float(json.loads(run(command))[0]["median_ts"])


# Others may take so much of a core; so often a run is done again before it counts all the same.
OTHERS, TRIES = 0.1, 5


def processor_seconds():
    """Processor time that all programs have had, and our children's share of it; None where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[:7])
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


def undisturbed(measure, dropped):
    """What `measure` returns, once nobody else took more than a tenth of a core meanwhile."""
    for attempt in range(TRIES):
        before, begun = processor_seconds(), time.monotonic()
        value = measure()
        after, seconds = processor_seconds(), time.monotonic() - begun
        if before is None or after is None:
            return value
        others = ((after[0] - before[0]) - (after[1] - before[1])) / seconds
        if others <= OTHERS or attempt + 1 == TRIES:
            return value
        dropped.append(others)
        say(f"    dropped: other programs took {others:.2f} of a core")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for builds and models (about 12 GB)")
    for name, engine in ENGINES.items():
        parser.add_argument(engine["flag"], dest=name, type=Path, metavar="SRC", help=f"source folder of {name}, or the folder of its programs")
    parser.add_argument("--sherry", type=Path, default=ROOT / "target/release/sherry")
    parser.add_argument("--isa", default="auto", help="our instruction sets, comma-separated")
    parser.add_argument("--two-stage", action="store_true", help="run ours with the two-stage head as well (greedy tgN only)")
    parser.add_argument("--formats", default="sherry-1.25", help="our formats, comma-separated")
    parser.add_argument("--vocab", default="128256,2048", help="2048: the body alone")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tests", default="tg64,pp128,pp512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--stq", action="store_true", help="the llama.cpp given has STQ1_0: run our own file in it")
    parser.add_argument("--json", type=Path, help="write every figure here as well")
    args = parser.parse_args()
    args.work, args.sherry = args.work.resolve(), args.sherry.resolve()

    programs = {name: build(name, getattr(args, name), args.work, args.jobs) for name in ENGINES if getattr(args, name)}
    contestants = []  # (vocabulary, name, size in MB, function of threads and test)
    for vocab in map(int, args.vocab.split(",")):
        dense = dense_model(args.sherry, args.work, vocab)
        for name, folder in programs.items():
            for form in ENGINES[name]["formats"]:
                model = peer_model(folder, dense, name, form)
                contestants.append((vocab, f"{name} {form}", model, lambda t, test, f=folder, m=model: llama_bench(f, m, t, test)))
        if args.stq and "llama.cpp" in programs:
            folder, model = programs["llama.cpp"], stq_model(args.sherry, dense)
            contestants.append((vocab, "llama.cpp STQ1_0", model, lambda t, test, f=folder, m=model: llama_bench(f, m, t, test)))
        for form in args.formats.split(","):
            model = sherry_model(args.sherry, dense, form)
            for isa in args.isa.split(","):
                label = f"{SHERRY} {form}" + ("" if isa == "auto" else f" ({isa})")
                contestants.append((vocab, label, model, lambda t, test, m=model, i=isa: sherry_bench(args.sherry, m, t, test, i)))
                if args.two_stage:
                    two_stage = lambda t, test, m=model, i=isa: sherry_bench(args.sherry, m, t, test, i, "two-stage")
                    contestants.append((vocab, label + ", two-stage head", model, two_stage))

    figures, dropped = {}, []
    for number in range(args.rounds):
        for vocab, label, _, measure in contestants:
            for threads in map(int, args.threads.split(",")):
                for test in args.tests.split(","):
                    if label.endswith("two-stage head") and test.startswith("pp"):
                        continue
                    say(f"round {number + 1}/{args.rounds}: {label}, vocabulary {vocab}, {threads} threads, {test}")
                    figures.setdefault((vocab, label, threads, test), []).append(undisturbed(lambda: measure(threads, test), dropped))

    columns = [(int(t), test) for test in args.tests.split(",") for t in args.threads.split(",")]
    for vocab in map(int, args.vocab.split(",")):
        print(f"\nvocabulary {vocab}, tokens per second, median of {args.rounds} (ratio: to the best peer)\n")
        print("| engine and format | MB | " + " | ".join(f"{test}, {t} thr" for t, test in columns) + " |")
        print("|---|---:|" + "---:|" * len(columns))
        medians = {key: statistics.median(values) for key, values in figures.items()}
        for v, label, model, _ in contestants:
            if v != vocab:
                continue
            size = sum(f.stat().st_size for f in ([model] if model.is_file() else model.iterdir())) / 1e6
            cells = []
            for threads, test in columns:
                value = medians.get((vocab, label, threads, test))
                if value is None:
                    cells.append("")
                    continue
                peers = [m for (pv, pl, pt, pe), m in medians.items()
                         if (pv, pt, pe) == (vocab, threads, test) and not pl.startswith(SHERRY + " ")]
                ours = label.startswith(SHERRY + " ")
                cells.append(f"{value:.1f}" + (f" ({value / max(peers):.2f}x)" if ours and peers else ""))
            print(f"| {label} | {size:.0f} | " + " | ".join(cells) + " |")
    if dropped:
        print(f"\n{len(dropped)} runs were done again: other programs took {min(dropped):.2f} to {max(dropped):.2f} of a core")
    if args.json:
        rows = [{"vocab": v, "name": n, "threads": t, "test": e, "tokens_per_second": x} for (v, n, t, e), x in figures.items()]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
