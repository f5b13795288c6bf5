#!/usr/bin/env python3
"""The stories that the model inside the program learns from, and how its own are judged. Python 3.10, no packages.

    python3 stories.py sample MODEL stories-raw.jsonl --count 16000
    python3 stories.py filter stories-raw.jsonl data/
    python3 stories.py judge sherry-tiny.gguf data/stories-train.jsonl --judge MODEL

`sample` asks MODEL for short stories, with prompts over a grid of characters, things, places and morals, through `sherry serve`
which it starts. Story number i has seed i and a prompt drawn with it: the same model and program give the same stories, in any
order. A run that was stopped goes on where it was. `filter` ends each with the last whole sentence before it begins to repeat
itself, keeps what is plain English and long enough, and writes stories-train.jsonl and, every fiftieth, stories-valid.jsonl.
`judge` has the model tell 100 stories (temperature 0.7, every token eligible) and reports the perplexity that the judge gives them,
how many of their pairs of words are distinct within a story, and the longest run of words that stands in the training stories.
"""

import argparse
import concurrent.futures
import http.client
import json
import math
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHARACTERS = """a little girl named Lily|a little boy named Tom|a small dog named Max|a cat named Mia|a rabbit named Ben
a young bear named Bruno|a mouse named Pip|a bird named Coco|a frog named Fred|a little fox named Ruby|a duck named Daisy
a boy named Sam and his sister Anna|an old farmer named Jack|a kind grandmother named Rose|a horse named Star|a turtle named Tim
a baby elephant named Ella|a young owl named Oscar|a squirrel named Nut|a little robot named Bip|a small dragon named Zip
a girl named Emma and her best friend Kate|a fisherman named Paul|a lion cub named Leo|a sheep named Molly|a young king named Hugo
a princess named Clara|a snowman named Bob|a bee named Honey|a little fish named Finn|a puppy named Spot|a kitten named Luna
a boy named Ali|a girl named Nina|a monkey named Momo|a hedgehog named Harry|a baker named Martha|a child named Noah
a penguin named Pete|a little star named Twinkle""".replace("\n", "|").split("|")

THINGS = """a red ball|a lost key|a big cake|a blue kite|an old book|a warm blanket|a small boat|a shiny stone|a broken toy|a paper plane
a yellow umbrella|a magic seed|a box of crayons|a little bell|a new hat|a basket of apples|a lantern|a wooden bridge|a golden feather
a jar of honey|a drum|a letter|a balloon|a tiny door|a bicycle|a snowball|a flower|a map|a pair of boots|a birthday present
a bowl of soup|a swing|a mirror|a ladder|a puppet|a pumpkin|a sand castle|a music box|a picture|a red scarf""".replace("\n", "|").split("|")

PLACES = """in a garden|in the forest|by the sea|on a farm|in a small village|at school|in the park|on a hill|by the river|in the snow
in a big city|at the market|in a castle|in the kitchen|at the lake|on an island|in a meadow|in a cave|at the zoo|under a big tree
in the mountains|at home on a rainy day|in the night|on a train|in the attic""".replace("\n", "|").split("|")

MORALS = """sharing is good|it is brave to say sorry|friends help each other|patience pays|it is good to tell the truth
everyone can learn|small ones can do big things|kindness comes back|it is fine to be different|work is more fun together
one should listen to others|being careful is wise|never give up|home is the best place|asking for help is not a shame
being greedy is bad|one can be afraid and still be brave|nature should be cared for|it is good to make new friends
saying thank you matters""".replace("\n", "|").split("|")

FORMS = (
    "Write a short story for children about {character}, {thing} and what happened {place}. The story shows that {moral}. "
    "Begin with \"Once upon a time\".",
    "Tell a short story for a young child. It is about {character} who finds {thing} {place}. At the end we learn that {moral}. "
    "Begin with \"One day\".",
    "Write a short bedtime story. {Character} loses {thing} {place}. The story shows that {moral}. Tell only the story.",
    "Write a short story for children, in which the characters speak. {Character} wants {thing}. It takes place {place}. It shows "
    "that {moral}. Begin with \"Once upon a time\".",
)


def prompt(number):
    """The request for story `number`, always the same."""
    draw = random.Random(f"story {number}")
    character = draw.choice(CHARACTERS)
    return draw.choice(FORMS).format(
        character=character,
        Character=character[0].upper() + character[1:],
        thing=draw.choice(THINGS),
        place=draw.choice(PLACES),
        moral=draw.choice(MORALS),
    )


class Server:
    """`sherry serve` on a Unix socket of its own, ended with the block."""

    def __init__(self, program, model, together):
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "socket")
        self.process = subprocess.Popen(
            [program, "serve", model, "--listen", f"unix:{self.path}", "--max-running", str(together),
             "--step-ms", "1000", "--no-speculation", "--alias", "teller"],
            stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        while not os.path.exists(self.path) or self.answer("/health").status != 200:
            if self.process.poll() is not None:
                sys.exit(f"sherry serve ended: {self.process.stderr.read()}")
            time.sleep(0.1)
        # What it says from here on is nobody's, but has to be taken.
        concurrent.futures.ThreadPoolExecutor(1).submit(self.process.stderr.read)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def answer(self, path, body=None):
        """To a GET, or to a POST of `body`."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.path)
        text = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, text, {"Content-Type": "application/json"})
        return connection.getresponse()

    def ask(self, path, body):
        while True:
            answer = self.answer(path, body)
            text = answer.read()
            if answer.status == 200:
                return json.loads(text)
            if answer.status != 503:  # It had to wait for long, where other programs took the processor.
                raise RuntimeError(f"{path}: {answer.status} {text[:500]!r}")
            time.sleep(1)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path, texts):
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")


def sample(args):
    path = Path(args.output)
    done = set()
    if path.exists():
        whole = path.read_text(encoding="utf-8")
        whole = whole[: whole.rfind("\n") + 1]  # A stopped run may have left half a line.
        path.write_text(whole, encoding="utf-8")
        done = {json.loads(line)["number"] for line in whole.splitlines()}
    missing = [number for number in range(args.count) if number not in done]
    begun = time.monotonic()

    def tell(number):
        answer = server.ask("/v1/chat/completions", {
            "model": "teller", "messages": [{"role": "user", "content": prompt(number)}], "seed": number,
            "max_tokens": args.tokens, "temperature": args.temp, "top_p": 0.95, "min_p": 0.05})
        return {"number": number, "text": answer["choices"][0]["message"]["content"]}

    with Server(args.sherry, args.model, args.together) as server, open(path, "a", encoding="utf-8") as file, \
            concurrent.futures.ThreadPoolExecutor(args.together + 8) as pool:
        for count, story in enumerate(pool.map(tell, missing), 1):
            file.write(json.dumps(story, ensure_ascii=False) + "\n")
            if count % 100 == 0:
                file.flush()
                print(f"{len(done) + count} of {args.count}, {60 * count / (time.monotonic() - begun):.0f} a minute", file=sys.stderr)


def words(text):
    return re.findall(r"[a-z']+", text.lower())


def distinct_pairs(text):
    """Share of the pairs of neighbouring words that are distinct."""
    told = words(text)
    pairs = list(zip(told, told[1:]))
    return len(set(pairs)) / len(pairs) if pairs else 0.0


ASCII = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": " - ", "\u2013": "-"})
BEGINNING = re.compile(r"(Once|One|There|In|It|On|As|When|[A-Z][a-z]+ (was|had|lived|loved|wanted)|An? |The )")
FOREIGN = re.compile(r"[*#_<>{}\[\]|\\@]|\d{3}|http|\b(as an AI|language model|title:|the end of the story)\b", re.IGNORECASE)


def tidy(text):
    """The story up to the last whole sentence before it begins to repeat itself; None where that is no story."""
    text = re.sub(r"[ \t]+", " ", text.strip().translate(ASCII))
    text = re.sub(r"\s*\n\s*", "\n", text)
    if not text.isascii() or FOREIGN.search(text) or not BEGINNING.match(text):
        return None
    ends = [found.end() for found in re.finditer(r'[.!?]"?(?=\s|$)', text)]
    for end in reversed(ends):
        story = text[:end]
        sentences = re.split(r'(?<=[.!?])"?\s+', story.lower())
        if story.count('"') % 2 == 0 and len(set(sentences)) == len(sentences) and distinct_pairs(story) >= 0.78:
            return story if len(words(story)) >= 60 else None
    return None


def filter_stories(args):
    kept, beginnings = [], set()
    raw = lines(args.input)
    for story in sorted(raw, key=lambda story: story["number"]):
        text = tidy(story["text"])
        if text is None:
            continue
        beginning = " ".join(words(text)[:30])
        if beginning not in beginnings:
            beginnings.add(beginning)
            kept.append(text)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", [text for i, text in enumerate(kept) if i % 50]), ("valid", kept[::50])):
        write(folder / f"stories-{name}.jsonl", part)
    print(f"{len(kept)} of {len(raw)} stories kept, {sum(map(len, kept))} bytes")


def longest_run(told, known, shortest=6):
    """Length of the longest run of words of `told` that stands in one of the stories `known`."""
    places = {}
    for story in known:
        for at in range(len(story) - shortest + 1):
            places.setdefault(tuple(story[at : at + shortest]), []).append((story, at))
    longest = 0
    for story in told:
        for at in range(len(story) - shortest + 1):
            for other, start in places.get(tuple(story[at : at + shortest]), ()):
                length = shortest
                while at + length < len(story) and start + length < len(other) and story[at + length] == other[start + length]:
                    length += 1
                longest = max(longest, length)
    return longest


def judge(args):
    with Server(args.sherry, args.model, 16) as server, concurrent.futures.ThreadPoolExecutor(16) as pool:

        def tell(seed):
            answer = server.ask("/v1/completions", {
                "model": "teller", "prompt": "", "seed": seed, "max_tokens": 150, "temperature": args.temp, "top_p": 1,
                "min_p": 0, "top_k": 0})
            return answer["choices"][0]["text"].strip()

        told = list(pool.map(tell, range(args.count)))
    report(args, told)


def report(args, told):
    with tempfile.TemporaryDirectory() as folder:
        nll = tokens = 0
        for number, story in enumerate(told):
            path = os.path.join(folder, f"{number}.txt")
            Path(path).write_text(story, encoding="utf-8")
            found = json.loads(subprocess.run(
                [args.sherry, "eval", args.judge, "--ppl", path, "--ppl-mode", "rolling", "--json"],
                check=True, capture_output=True, text=True).stdout)["sherry"]["perplexity"][0]
            nll += math.log(found["perplexity"]) * found["tokens_scored"]
            tokens += found["tokens_scored"]
    known = [words(story["text"]) for story in lines(args.stories)]
    shares = [distinct_pairs(story) for story in told]
    print(f"stories                          {len(told)}, {tokens} tokens of the judge")
    print(f"perplexity, by the judge         {math.exp(nll / tokens):.2f}")
    print(f"distinct pairs of words          {sum(shares) / len(shares):.1%}, the least {min(shares):.1%}")
    print(f"longest run of words in training {longest_run([words(story) for story in told], known)}")
    if args.output:
        write(args.output, told)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sherry", default="sherry", help="the program")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("sample", help="have a model tell stories")
    command.add_argument("model")
    command.add_argument("output")
    command.add_argument("--count", type=int, default=16000)
    command.add_argument("--together", type=int, default=96, help="stories computed at once")
    command.add_argument("--tokens", type=int, default=220)
    command.add_argument("--temp", type=float, default=0.7)
    command.set_defaults(run=sample)
    command = commands.add_parser("filter", help="keep the good ones")
    command.add_argument("input")
    command.add_argument("output", help="folder for stories-train.jsonl and stories-valid.jsonl")
    command.set_defaults(run=filter_stories)
    command = commands.add_parser("judge", help="judge the stories of a model")
    command.add_argument("model")
    command.add_argument("stories", help="what the model was trained on")
    command.add_argument("--judge", required=True, help="the model that gives perplexity")
    command.add_argument("--count", type=int, default=100)
    command.add_argument("--temp", type=float, default=0.7)
    command.add_argument("--output", help="write the stories told")
    command.set_defaults(run=judge)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
