"""Times lm-evaluation-harness and `sherry eval` on the same items, in turns, and compares every score.

See README.md beside this file. Loading a model is left out of both times; everything from prompt texts to scores is in.
"""

import argparse
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The harness's split names and the files of the data folder.
TASKS = {
    "arc_easy": ("test", "arc_easy_test"),
    "arc_challenge": ("test", "arc_challenge_test"),
    "hellaswag": ("validation", "hellaswag_validation"),
    "piqa": ("validation", "piqa_validation"),
    "winogrande": ("validation", "winogrande_xl_validation"),
    "openbookqa": ("test", "openbookqa_test"),
}
PAPER = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face folder that both read")
    parser.add_argument("--gguf", type=Path, help="the same model as GGUF, which `sherry eval` runs in its default mode")
    parser.add_argument("--sherry", type=Path, default=Path("target/release/sherry"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SHERRY_DATA", ".")) / "eval")
    parser.add_argument("--tasks", default=",".join(PAPER))
    parser.add_argument("--limit", type=int, default=40, help="items of each task [40]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", default="1,4,8,16,32,auto", help="tried by the harness; the fastest is used")
    parser.add_argument("--tune", type=int, default=8, help="items of each task to find it with [8]")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    args.tasks = args.tasks.split(",")
    args.model = args.model.resolve()
    for name in args.tasks:
        if name not in TASKS:
            parser.error(f"--tasks: '{name}' is none of {', '.join(TASKS)}")
        if data_file(args.data, name) is None:
            parser.error(f"--data {args.data}: no {TASKS[name][1]}.jsonl or .jsonl.gz")
    if not args.sherry.is_file():
        parser.error(f"--sherry {args.sherry}: build it with cargo build --release, or name another")
    return args


def data_file(folder, name):
    candidates = (folder / f"{TASKS[name][1]}{ending}" for ending in (".jsonl", ".jsonl.gz"))
    return next((path for path in candidates if path.is_file()), None)


class Harness:
    """lm-evaluation-harness with its own task definitions over local data files."""

    def __init__(self, args, scratch):
        # Nothing may be looked up on the hub, and nothing kept from earlier runs.
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(scratch / "datasets"), TOKENIZERS_PARALLELISM="true")
        import torch
        from lm_eval import tasks
        from lm_eval.models.huggingface import HFLM

        torch.set_num_threads(args.threads)
        self.versions = {"torch": torch.__version__}
        for package in ("lm_eval", "transformers", "numpy"):
            self.versions[package] = __import__("importlib.metadata").metadata.version(package)
        manager = tasks.TaskManager()
        overrides = []
        for name in args.tasks:
            split, _ = TASKS[name]
            plain = scratch / f"{name}.jsonl"
            source = data_file(args.data, name)
            with (gzip.open if source.suffix == ".gz" else open)(source, "rb") as reader, open(plain, "wb") as writer:
                shutil.copyfileobj(reader, writer)
            # The harness's own definition; only the place of the data differs.
            override = {"task": name, "dataset_path": "json", "dataset_name": None, "training_split": None}
            override |= {"validation_split": None, "test_split": None, f"{split}_split": split}
            override["dataset_kwargs"] = {"data_files": {split: str(plain)}}
            overrides.append(override)
        # Members of a group are the registered tasks with what is overridden; a task given alone would be a new one.
        self.tasks = list(manager.load({"group": "side_by_side", "task": overrides})["tasks"].values())
        self.model = HFLM(pretrained=str(args.model), device="cpu", dtype="float32", batch_size=1)
        self.scoring = 0.0
        plain_call = self.model.loglikelihood

        def timed(*arguments, **options):
            start = time.perf_counter()
            answers = plain_call(*arguments, **options)
            self.scoring += time.perf_counter() - start
            return answers

        self.model.loglikelihood = timed

    def run(self, limit, batch_size):
        """Seconds, and per task the accuracies and every item's prompts and scores."""
        import lm_eval

        self.model.batch_size_per_gpu = batch_size if batch_size == "auto" else int(batch_size)
        self.scoring = 0.0
        found = lm_eval.simple_evaluate(self.model, tasks=self.tasks, limit=limit, bootstrap_iters=0)
        outcome = {}
        for name, samples in found["samples"].items():
            samples = sorted(samples, key=lambda sample: sample["doc_id"])
            metrics = {key: found["results"][name].get(f"{key},none") for key in ("acc", "acc_norm")}
            outcome[name] = {"metrics": metrics, "items": [item(sample) for sample in samples]}
        return self.scoring, outcome


class Sherry:
    """`sherry eval` on one file with one choice of options."""

    def __init__(self, args, scratch, model, options):
        self.args, self.scratch, self.model, self.options = args, scratch, model, options

    def run(self, limit):
        out = Path(tempfile.mkdtemp(dir=self.scratch)) / "results.json"
        command = [self.args.sherry, "eval", self.model, "--tasks", ",".join(self.args.tasks), "--limit", limit]
        command += ["--data", self.args.data, "--threads", self.args.threads, "-o", out, "--log-samples", "-q"]
        subprocess.run([str(part) for part in command + self.options], check=True, stdout=subprocess.DEVNULL)
        results = json.loads(out.read_text())
        outcome = {}
        for name in self.args.tasks:
            lines = out.with_name(f"results.samples_{name}.jsonl").read_text().splitlines()
            metrics = {key: results["results"][name].get(f"{key},none") for key in ("acc", "acc_norm")}
            outcome[name] = {"metrics": metrics, "items": [item(json.loads(line)) for line in lines]}
        return sum(results["sherry"]["seconds"].values()), outcome


def item(sample):
    """Prompts and scores of an item as either program logs it."""
    asked = sample["arguments"]
    if isinstance(asked, dict):
        asked = [(pair["arg_0"], pair["arg_1"]) for pair in asked.values()]
    scores = [(float(score), str(greedy) == "True") for score, greedy in sample["filtered_resps"]]
    return {"asked": [tuple(pair) for pair in asked], "scores": scores}


def difference(reference, found):
    """Largest difference of a log-likelihood, items whose most likely choice differs, tasks whose accuracies differ."""
    largest, other_choice, other_accuracy = 0.0, 0, []
    best = lambda scores: max(range(len(scores)), key=lambda i: scores[i][0])
    for name, expected in reference.items():
        if any(a["asked"] != b["asked"] for a, b in zip(expected["items"], found[name]["items"], strict=True)):
            sys.exit(f"{name}: the prompts differ")
        for a, b in zip(expected["items"], found[name]["items"], strict=True):
            largest = max(largest, *(abs(x[0] - y[0]) for x, y in zip(a["scores"], b["scores"], strict=True)))
            other_choice += best(a["scores"]) != best(b["scores"])
        same = all(
            expected["metrics"][key] is None or abs(expected["metrics"][key] - found[name]["metrics"][key]) < 1e-9
            for key in expected["metrics"]
        )
        other_accuracy += [] if same else [name]
    return largest, other_choice, other_accuracy


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        harness = Harness(args, scratch)
        contestants = {"sherry eval, f32": Sherry(args, scratch, args.model, ["--precision", "f32", "--kv", "f32"])}
        contestants["sherry eval, defaults"] = Sherry(args, scratch, args.model, [])
        if args.gguf:
            contestants["sherry eval, GGUF, f32"] = Sherry(args, scratch, args.gguf, ["--precision", "f32", "--kv", "f32"])
            contestants["sherry eval, GGUF, defaults (int8)"] = Sherry(args, scratch, args.gguf, [])

        sizes = args.batch_sizes.split(",")
        tuned = {}
        if len(sizes) > 1:
            harness.run(1, sizes[0])  # the first run pays for everything torch does once
            tuned = {size: harness.run(args.tune, size)[0] for size in sizes}
            print("batch sizes of lm_eval:", ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in tuned.items()), flush=True)
        size = min(tuned, key=tuned.get) if tuned else sizes[0]

        reference_name = f"lm_eval, float32, batch size {size}"
        times = {name: [] for name in (reference_name, *contestants)}
        outcomes = {}
        for number in range(args.rounds):
            seconds, outcomes[reference_name] = harness.run(args.limit, size)
            times[reference_name].append(seconds)
            for name, contestant in contestants.items():
                seconds, outcomes[name] = contestant.run(args.limit)
                times[name].append(seconds)
            print(f"round {number + 1}:", ", ".join(f"{name} {t[-1]:.1f} s" for name, t in times.items()), flush=True)

    reference = outcomes[reference_name]
    items = sum(len(task["items"]) for task in reference.values())
    requests = sum(len(item["scores"]) for task in reference.values() for item in task["items"])
    print(f"\n{items} items ({requests} requests) of {', '.join(args.tasks)}; {args.threads} threads; {processor()}")
    print(", ".join(f"{name} {version}" for name, version in harness.versions.items()), end="\n\n")
    print("| program | seconds, best (median) | items/s | ratio | largest log-likelihood difference | other choice | other acc |")
    print("|---|---:|---:|---:|---:|---:|---|")
    rows = []
    base = min(times[reference_name])
    for name, seconds in times.items():
        largest, choices, accuracies = difference(reference, outcomes[name])
        best = min(seconds)
        rows.append({"program": name, "seconds": seconds, "items_per_second": items / best, "ratio": base / best})
        rows[-1] |= {"largest_difference": largest, "other_choice": choices, "other_accuracy": accuracies}
        print(
            f"| {name} | {best:.1f} ({statistics.median(seconds):.1f}) | {items / best:.2f} | {base / best:.2f} | "
            f"{largest:.6f} | {choices} | {', '.join(accuracies) or 'none'} |"
        )
    if args.json:
        report = {"items": items, "requests": requests, "tasks": args.tasks, "threads": args.threads}
        report |= {"processor": processor(), "versions": harness.versions, "tuning_seconds": tuned, "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
