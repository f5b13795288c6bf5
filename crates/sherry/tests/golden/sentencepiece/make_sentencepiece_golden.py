"""Trains small SentencePiece models and writes down what SentencePiece makes of some texts.

    pip install sentencepiece==0.2.3
    python make_sentencepiece_golden.py .                 # the models of the tests
    python make_sentencepiece_golden.py FOLDER --many 60  # as many with options drawn at random, for
                                                          # SHERRY_SENTENCEPIECE=FOLDER cargo test sentencepiece

Every NAME.model comes with NAME.json: a list of {"text", "ids", "decoded"}, without begin and end of text.
"""

import argparse
import io
import json
import pathlib
import random

import sentencepiece

WORDS = (
    "the of and a to in is was he for it with as his on be at by had not are but from or have an they which one you "
    "were her all she there would their we him been has when who will more no if out so said what up its about into "
    "than them can only other new some could time these two may then do first any my now such like our over man me "
    "even most made after also did many before must through back years where much your way well down should because "
    "1234 2024 7 don't it's naïve café Straße привет мир 漢字 かな 한국어 العربية ... !? (x) [y] {z} a_b x-y"
).split()
SYMBOLS = ["<tool>", "<sep>", "  ", "\u2581\u2581", "\n", "\n\n", "ab", "é", "<x"]
PARTS = WORDS + SYMBOLS + [" ", "  ", "   ", "\t", "\n", "é", "ﬁ", "Ａ", "①", "😀", "\u3000", "\u00a0", "\u200b", "\0",
                           "\u2581", "<s>", "</s>", "<unk>", "<0x41>", "A", "THE", "e\u0301", "ß", "\ufeff", "Å"]
RULES = "66 69\tFB01\n41\tFF21\n20\t9\n\t200B\n61 61\t7E\n62\t7E 7E\n"


def corpus(rng):
    for _ in range(600):
        words = rng.choices(WORDS, weights=[len(WORDS) - i for i in range(len(WORDS))], k=rng.randint(3, 14))
        yield rng.choice([" ", " ", "  "]).join(words)


def text(rng):
    return "".join(rng.choice(PARTS) + rng.choice(["", "", " "]) for _ in range(rng.randint(0, 12)))


def train(folder, name, seed, rules, **options):
    rng = random.Random(seed)
    if rules:
        path = pathlib.Path(folder) / f"{name}.tsv"
        # Columns: what is replaced, by what; code points in hexadecimal.
        lines = [line.split("\t") for line in RULES.splitlines()]
        path.write_text("".join(f"{to}\t{by}\n" for by, to in lines))
        options["normalization_rule_tsv"] = str(path)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(rng), model_writer=model, num_threads=1, minloglevel=2, hard_vocab_limit=False,
        **options,
    )
    if rules:
        path.unlink()
    (pathlib.Path(folder) / f"{name}.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    cases = []
    for _ in range(150):
        case = text(rng)
        ids = processor.encode(case)
        cases.append({"text": case, "ids": ids, "decoded": processor.decode(ids)})
    (pathlib.Path(folder) / f"{name}.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--many", type=int)
    arguments = parser.parse_args()
    if arguments.many:
        for seed in range(arguments.many):
            rng = random.Random(1000 + seed)
            rule = rng.choice(["identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf", None])
            options = {} if rule is None else {"normalization_rule_name": rule}
            train(
                arguments.folder, f"many{seed}", seed, rule is None,
                model_type=rng.choice(["bpe", "unigram"]), vocab_size=rng.choice([330, 400, 500]),
                byte_fallback=rng.random() < 0.5, add_dummy_prefix=rng.random() < 0.6,
                remove_extra_whitespaces=rng.random() < 0.4, split_digits=rng.random() < 0.5,
                character_coverage=rng.choice([1.0, 0.98]), allow_whitespace_only_pieces=rng.random() < 0.5,
                user_defined_symbols=rng.sample(SYMBOLS, rng.randint(0, 5)),
                control_symbols=rng.sample(["<ctrl>", "<turn>"], rng.randint(0, 2)),
                pad_id=rng.choice([-1, 3]), bos_id=1, eos_id=rng.choice([2, -1]), **options,
            )
        return
    common = {"vocab_size": 360, "character_coverage": 0.98}
    train(arguments.folder, "llama", 1, False, model_type="bpe", byte_fallback=True, split_digits=True,
          normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, **common)
    train(arguments.folder, "gemma", 2, False, model_type="bpe", byte_fallback=True, split_digits=True,
          normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, pad_id=0, eos_id=1,
          bos_id=2, unk_id=3, user_defined_symbols=["\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<tool>"], **common)
    train(arguments.folder, "rules", 3, True, model_type="bpe", user_defined_symbols=["<tool>", "~~"], **common)
    train(arguments.folder, "unigram", 4, False, model_type="unigram", byte_fallback=True,
          normalization_rule_name="identity", user_defined_symbols=["<tool>", "ab"], **common)
    train(arguments.folder, "unigram_rules", 5, True, model_type="unigram", remove_extra_whitespaces=False,
          control_symbols=["<turn>"], **common)


main()
