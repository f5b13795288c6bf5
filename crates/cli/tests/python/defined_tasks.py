"""Tasks generated from a seed, asked by `sherry eval` and by lm-evaluation-harness: contexts, continuations and right answers
must be the same. python defined_tasks.py SHERRY, in a folder that holds a model called dense."""

import json
import os
import random
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=os.path.abspath("home"), LOGLEVEL="ERROR")
import datasets
import jinja2.sandbox
import yaml
from lm_eval.api.task import ConfigurableTask

datasets.disable_progress_bars()
SHERRY = sys.argv[1]
ROWS = 5

rnd = random.Random(20261129)
WORDS = ["why", "  two ", "tea", "Zürich", "a\tb", "42", "no", "it's", 'say "x"', "line\nend", "日本", "[brackets]", "{{x}}", "100 %", ""]


def words(most):
    return " ".join(rnd.choice(WORDS) for _ in range(rnd.randint(1, most)))


def row():
    choices = []
    while len(choices) < 3:
        choice = (words(2) + str(len(choices))).strip()
        choices.append(choice)
    answer = rnd.randrange(3)
    return {
        "question": words(4) + rnd.choice([" how", "?", " ", "  so: "]) + "x" * rnd.randint(0, 1) + "?", "choices": choices, "answer": answer, "letter": "ABC"[answer], "label": str(answer),
        "right": choices[answer], "flag": bool(answer % 2), "number": rnd.random() * 10, "topic": rnd.choice(["history", "tea"]),
    }


TEXTS = [
    "question",
    "{{question}}",
    "Q: {{question.strip()}}\nA:",
    "{{question}}\n",
    "  {{ question|trim|capitalize }} {{number|round(2)}}",
    "{% for c in choices %}\n{{loop.index}}. {{c}}\n{% endfor %}\nAnswer:",
    "{%- if flag -%} yes {%- else %} no{% endif %} {{topic ~ '/' ~ letter}}\n\n",
    "{{question}}{# a comment #}\n{{choices|join(', ')}}:",
    "{% set q = question.split(' ') %}{{ q[0] }}|{{ q|length }}|{{flag}}",
    "{{question.replace('t', 'T')}} {{ choices[0][:3] }} {{ 'x' if answer > 0 else 'y' }}",
]
CHOICES = [
    ["A", "B", "C"],
    [" yes", "no ", "maybe"],
    {"first": "one", "second": "two", "third": "three"},
    "choices",
    "{{choices}}",
    "{{[choices[0] ~ '!', choices[1], letter]}}",
]
TARGETS = ["answer", "{{answer}}", "label_template", 1]


def task(name, chooses):
    rows = {split: [row() for _ in range(count)] for split, count in [("train", 8), ("dev", 6), ("test", ROWS)]}
    if rnd.random() < 0.5:
        rows["dev"][2] = dict(rows["test"][1])
        rows["test"][3] = dict(rows["dev"][0])
    for split, of_split in rows.items():
        with open(f"{name}_{split}.jsonl", "w") as file:
            file.writelines(json.dumps(one) + "\n" for one in of_split)
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: f"{name}_{split}.jsonl" for split in rows}},
        "output_type": "multiple_choice" if chooses else "loglikelihood",
        "doc_to_text": rnd.choice(TEXTS),
        "metadata": {"version": 1.0},
    }
    splits = rnd.choice([{"test_split": "test"}, {"validation_split": "test"}, {"test_split": "test", "validation_split": "dev"}])
    config |= splits
    if rnd.random() < 0.5:
        config["training_split"] = "train"
    shots = rnd.choice([None, 0, 1, 3, 4])
    if shots is not None:
        config["num_fewshot"] = shots
    if rnd.random() < 0.6:
        config["fewshot_split"] = rnd.choice(["train", "dev", "test"])
    if rnd.random() < 0.5:
        config["fewshot_config"] = {"sampler": rnd.choice(["first_n", "default"])}
    if chooses:
        config["doc_to_choice"] = rnd.choice(CHOICES)
        target = rnd.choice(TARGETS)
        if target == "label_template":
            target = "{{label}}"
        if config["doc_to_choice"] == ["A", "B", "C"] and rnd.random() < 0.5:
            target = rnd.choice(["letter", "{{letter}}"])
        if config["doc_to_choice"] in ("choices", "{{choices}}") and rnd.random() < 0.3:
            target = "right"
        config["doc_to_target"] = target
        if rnd.random() < 0.5:
            config["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    else:
        config["doc_to_target"] = rnd.choice(["right", " {{right}}", "{{letter}}.", "{{topic}}"])
    if rnd.random() < 0.5:
        config["target_delimiter"] = rnd.choice(["", "\n", " -> "])
    if rnd.random() < 0.3:
        config["fewshot_delimiter"] = rnd.choice(["\n", "###\n"])
    if rnd.random() < 0.5:
        config["description"] = rnd.choice(["Answer these.\n\n", "About {{topic}}:", "topic"])
    if rnd.random() < 0.3:
        # Part of it in another file.
        common = {key: config.pop(key) for key in ("dataset_path", "doc_to_text")}
        with open(f"_{name}_common", "w") as file:
            yaml.safe_dump(common, file, allow_unicode=rnd.random() < 0.5)
        whole = common | config
        config["include"] = f"_{name}_common"
    else:
        whole = config
    with open(f"{name}.yaml", "w") as file:
        yaml.safe_dump(config, file, allow_unicode=rnd.random() < 0.5, default_style=rnd.choice([None, '"']))
    # The harness gets what PyYAML reads from the file, not what was meant.
    read = yaml.safe_load(open(f"{name}.yaml"))
    read.pop("include", None)
    return whole | read


template = """{% for message in messages %}
{% if loop.first and message.role != 'system' %}<|im_start|>system
You help.<|im_end|>
{% endif %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}
"""
with open("dense/tokenizer_config.json") as file:
    tokenizer_config = json.load(file)
with open("dense/tokenizer_config.json", "w") as file:
    json.dump(tokenizer_config | {"chat_template": template}, file)
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
compiled = environment.from_string(template)


def render(messages, add_generation_prompt=True):
    return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt)


def asked_by_harness(config, chat, multiturn):
    task = ConfigurableTask(config=dict(config))
    task.set_fewshot_seed(1234)
    if config.get("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.build_all_requests(
        rank=0, world_size=1, apply_chat_template=chat, fewshot_as_multiturn=multiturn, chat_template=render if chat else None,
        tokenizer_name="x",
    )
    found = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append((instance.idx, list(instance.args)))
    golds = {}
    for index, doc in enumerate(task.eval_docs):
        gold = task.doc_to_target(doc)
        if config["output_type"] == "multiple_choice":
            golds[index] = gold if isinstance(gold, int) else task.doc_to_choice(doc).index(gold)
        else:
            golds[index] = 0
    return {index: ([args for _, args in sorted(requests)], golds[index]) for index, requests in found.items()}


def asked_by_sherry(name):
    found = {}
    with open(f"out.samples_{name}.jsonl") as file:
        for line in file:
            sample = json.loads(line)
            arguments = sample["arguments"]
            requests = [arguments[f"gen_args_{i}"] for i in range(len(arguments))]
            found[sample["doc_id"]] = ([[one["arg_0"], one["arg_1"]] for one in requests], sample["gold"])
    return found


tasks = [(f"task_{i}", task(f"task_{i}", i % 3 > 0)) for i in range(80)]
runs = 0
for chat, multiturn, some in [(False, False, tasks), (True, True, tasks[:50]), (True, False, tasks[50:])]:
    command = [SHERRY, "eval", "dense", "--tasks", ",".join(f"{name}.yaml" for name, _ in some), "-o", "out.json", "--log-samples", "-q"]
    if chat:
        command += ["--apply-chat-template", "--fewshot-as-multiturn", str(multiturn).lower()]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    results = json.load(open("out.json"))
    for name, config in some:
        own, theirs = asked_by_sherry(name), asked_by_harness(config, chat, multiturn)
        for index in theirs:
            assert own[index] == theirs[index], f"{name}, item {index}, chat {chat}:\n{own[index]}\n{theirs[index]}\n{config}"
        assert own.keys() == theirs.keys(), (name, own.keys(), theirs.keys())
        assert results["n-shot"][name] == (config.get("num_fewshot") or 0)
        runs += 1
print(f"ok {runs} runs of tasks")
