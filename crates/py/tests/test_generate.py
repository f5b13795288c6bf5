"""Generation: streams, options, sessions, callbacks."""

import threading
import time

import numpy as np
import pytest

import sherry

PROMPT = "Once upon a time"
GREEDY = {"max_new_tokens": 24, "temperature": 0}


def test_a_completion_says_everything(model):
    answer = model.generate(PROMPT, **GREEDY)
    assert str(answer) == answer.text == model.tokenizer.decode(answer.tokens)
    assert answer.text
    assert answer.finish_reason == "length"
    assert answer.usage.prompt_tokens == len(model.tokenizer.encode(PROMPT))
    assert answer.usage.completion_tokens == len(answer.tokens) == 24
    assert answer.timings.prompt > 0 and answer.timings.generation > 0


def test_token_ids_numpy_and_text_are_the_same_prompt(model):
    ids = model.tokenizer.encode(PROMPT)
    texts = {model.generate(prompt, **GREEDY).text for prompt in [PROMPT, ids, tuple(ids), np.array(ids, np.int64)]}
    assert len(texts) == 1


@pytest.mark.parametrize("interval", [0, 0.02, 1e9])
def test_pieces_make_the_text(model, interval):
    whole = model.generate(PROMPT, **GREEDY)
    stream = model.generate(PROMPT, stream=True, interval=interval, **GREEDY)
    pieces = list(stream)
    assert all(piece.text for piece in pieces)
    assert "".join(map(str, pieces)) == whole.text
    assert sum((piece.tokens for piece in pieces), []) == whole.tokens
    assert stream.result.text == whole.text and stream.result.finish_reason == "length"
    assert list(stream) == [] and stream.next_piece() is None
    if interval == 0:
        assert len(pieces) > 12


def test_break_close_and_with_end_a_stream(model):
    for piece in model.generate(PROMPT, stream=True):
        break
    stream = model.generate(PROMPT, stream=True, interval=0, temperature=0)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled" and stream.result.text
    with model.generate(PROMPT, stream=True, interval=0) as stream:
        next(stream)
    assert list(stream) == []
    assert stream.complete().finish_reason == "cancelled"
    # The engine has nothing left to do for them: what comes next is as ever.
    assert model.generate(PROMPT, **GREEDY).text == model.generate(PROMPT, **GREEDY).text


def test_streams_within_streams(model):
    """More of them than sequences run together: none waits for ever for another that nobody reads."""
    expected = model.generate(PROMPT, **GREEDY).text
    streams = [model.generate(PROMPT, stream=True, interval=0, **GREEDY) for _ in range(9)]
    texts = ["" for _ in streams]
    for index in reversed(range(9)):
        texts[index] += next(streams[index]).text
    for index, stream in enumerate(streams):
        texts[index] += "".join(map(str, stream))
    assert texts == [expected] * 9


def test_options_and_seeds(model):
    same = {model.generate(PROMPT, max_new_tokens=16, temperature=1.0, seed=7).text for _ in range(3)}
    assert len(same) == 1
    other = {model.generate(PROMPT, max_new_tokens=16, temperature=1.0, seed=seed).text for seed in range(6)}
    assert len(other) > 3
    before, end, _ = model.generate(PROMPT, **GREEDY).text.partition(" was")
    assert end
    stopped = model.generate(PROMPT, stop=end, **GREEDY)
    assert stopped.finish_reason == "stop" and stopped.text == before
    assert model.generate(PROMPT, stop=["zzz", end], **GREEDY).text == stopped.text
    assert model.generate(PROMPT, max_new_tokens=0).text == ""
    assert model.generate(PROMPT, temperature=None, max_new_tokens=2, stop=None).usage.completion_tokens == 2
    token = model.generate(PROMPT, **GREEDY).tokens[0]
    biased = model.generate(PROMPT, logit_bias={token: -100}, **GREEDY)
    assert biased.tokens[0] != token


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": 0},
        {"top_k": -1},
        {"min_p": 2},
        {"seed": -1},
        {"seed": 2**64},
        {"max_new_tokens": -5},
        {"max_new_tokens": 1.5},
        {"presence_penalty": 9},
        {"stop": [""]},
        {"stop": 5},
        {"stop": ["a"] * 65},
        {"logit_bias": {10**7: 1.0}},
        {"logit_bias": {1: 1e9}},
        {"logit_bias": [1]},
        {"logits_processor": 5},
        {"stop_event": 5},
        {"temprature": 1},
    ],
    ids=str,
)
def test_bad_options_are_refused_by_name(model, options):
    with pytest.raises((ValueError, TypeError)) as raised:
        model.generate(PROMPT, **options)
    assert next(iter(options)) in str(raised.value)


@pytest.mark.parametrize("prompt", [None, 5, [], [-1], [2**32], [10**6], ["a"], [1.5], object(), {"a": 1}, [[1]]], ids=str)
def test_bad_prompts_are_refused(model, prompt):
    for call in [model.generate, model.logits, model.session().feed]:
        with pytest.raises((ValueError, TypeError)):
            call(prompt)


def test_prompts_beyond_the_context_are_refused(model):
    for call in [model.generate, model.logits, model.log_probs, model.session().feed]:
        with pytest.raises(sherry.SherryError, match="context"):
            call([5] * (model.context + 2))
    full = model.generate([5] * (model.context - 3), temperature=0, logit_bias={id: -100 for id in model.tokenizer.eos_ids})
    assert full.finish_reason == "context"


def test_logits_do_not_depend_on_how_they_are_asked_for(model):
    ids = model.tokenizer.encode(PROMPT * 40)
    every = model.logits(ids)
    assert every.dtype == np.float32 and every.shape == (len(ids), every.shape[1])
    assert np.array_equal(every[-1], model.logits(ids, last=True))
    assert np.array_equal(every[:5], model.logits(ids[:5]))
    with model.session() as session:
        assert np.array_equal(session.feed(ids[:7]), every[6])
        assert np.array_equal(session.feed(ids[7:]), every[-1])
        session.truncate(3)
        assert np.array_equal(session.feed(ids[3:9]), every[8])


def test_log_probs_are_those_of_the_logits(model):
    ids = model.tokenizer.encode(PROMPT)
    logits = model.logits(ids).astype(np.float64)
    expected = [logits[i, ids[i + 1]] - np.log(np.exp(logits[i]).sum()) for i in range(len(ids) - 1)]
    found = model.log_probs(ids)
    assert found.dtype == np.float64
    assert np.allclose(found, expected, atol=1e-5)
    assert model.log_probs(ids[:1]).shape == (0,)
    window = model.tokenizer.encode(PROMPT * 9, add_special=False)
    result = model.perplexity(PROMPT * 9, window=8)
    assert float(result) == result.value > 1 and result.tokens == len(window) // 8 * 7


def test_sessions_generate_what_models_generate(model):
    for options in [GREEDY, {"max_new_tokens": 20, "temperature": 0.9, "seed": 3, "repetition_penalty": 1.2}]:
        expected = model.generate(PROMPT, **options)
        with model.session() as session:
            session.feed(model.tokenizer.encode(PROMPT))
            answer = session.generate(**options)
            assert (answer.text, answer.tokens) == (expected.text, expected.tokens)
            assert session.tokens == model.tokenizer.encode(PROMPT) + answer.tokens
            assert session.position == len(session.tokens)
            session.truncate(0)
            again = session.generate(model.tokenizer.encode(PROMPT), stream=True, **options)
            assert "".join(map(str, again)) == expected.text
    with pytest.raises(ValueError, match="closed"):
        session.feed([1])
    with pytest.raises(ValueError, match="no tokens"):
        model.session().generate(max_new_tokens=1)


def test_a_session_that_was_used_otherwise_ends_its_stream(model):
    session = model.session()
    stream = session.generate(model.tokenizer.encode(PROMPT), stream=True, interval=0, temperature=0)
    next(stream)
    session.feed([5])
    with pytest.raises(ValueError, match="meanwhile"):
        list(stream)


def test_full_sessions(model):
    session = model.session(context=10)
    capacity = session.context
    with pytest.raises(sherry.SherryError, match="context"):
        session.feed([5] * (capacity + 1))
    assert session.position == 0
    session.feed([5] * (capacity - 1))
    ends = {id: -100 for id in model.tokenizer.eos_ids}
    assert session.generate(temperature=0, logit_bias=ends).finish_reason == "context"
    assert session.position == capacity
    with pytest.raises(sherry.SherryError, match="context"):
        model.session(context=10**9)


def test_logits_processors_decide(model):
    seen = []

    def look(ids, logits):
        seen.append((ids.copy(), logits.copy()))

    answer = model.generate(PROMPT, logits_processor=look, **GREEDY)
    assert answer.text == model.generate(PROMPT, **GREEDY).text
    prompt = model.tokenizer.encode(PROMPT)
    assert len(seen) == 24 and list(seen[0][0]) == prompt and list(seen[3][0]) == prompt + answer.tokens[:3]
    assert np.array_equal(seen[3][1], model.logits(prompt + answer.tokens[:3], last=True))


def test_a_mask_by_a_regular_expression(model):
    """Constrained output in ten lines: only digits, then a full stop."""
    texts = [model.tokenizer.decode([id]) for id in range(model.tokenizer.vocab_size)]
    digits = np.array([text.isdigit() and text.isascii() for text in texts])
    stop = np.array([text == "." for text in texts])
    start = len(model.tokenizer.encode("It began in"))

    def mask(ids, logits):
        allowed = digits if len(ids) < start + 3 else stop
        logits[: len(allowed)][~allowed] = -np.inf
        logits[len(allowed) :] = -np.inf
        return logits

    answer = model.generate("It began in", logits_processor=mask, max_new_tokens=4, temperature=1.0)
    assert answer.text[:-1].isdigit() and answer.text[-1] == "."


@pytest.mark.parametrize("answer", [5.0, "x", np.zeros(3, np.float32), np.zeros(4096, np.int32), [[1.0]]], ids=str)
def test_bad_answers_of_logits_processors(model, answer):
    with pytest.raises((ValueError, TypeError), match="logits_processor"):
        model.generate(PROMPT, logits_processor=lambda ids, logits: answer)


def test_a_mask_that_allows_nothing(model):
    with pytest.raises(ValueError, match="logit"):
        model.generate(PROMPT, logits_processor=lambda ids, logits: np.full_like(logits, -np.inf))


def test_callbacks_that_raise_pass_through(model):
    class Odd(BaseException):
        pass

    for kind in [KeyError, Odd, KeyboardInterrupt]:
        calls = []

        def fail(ids, logits):
            calls.append(1)
            if len(calls) == 3:
                raise kind("mine")

        stream = model.generate(PROMPT, logits_processor=fail, stream=True, interval=0, temperature=0)
        with pytest.raises(kind, match="mine"):
            list(stream)
        assert len(calls) == 3 and list(stream) == []

        class Event:
            def is_set(self):
                raise kind("mine")

        with pytest.raises(kind, match="mine"):
            model.generate(PROMPT, stop_event=Event())
    assert model.generate(PROMPT, **GREEDY).text


def test_a_processor_may_use_the_model(model):
    def nested(ids, logits):
        return model.logits(ids, last=True)

    assert model.generate(PROMPT, logits_processor=nested, **GREEDY).text == model.generate(PROMPT, **GREEDY).text


def test_stop_event(model):
    event = threading.Event()
    event.set()
    assert model.generate(PROMPT, stop_event=event).finish_reason == "cancelled"
    event = threading.Event()
    timer = threading.Timer(0.3, event.set)
    timer.start()
    pieces = []
    start = time.monotonic()
    while time.monotonic() - start < 30 and not event.is_set():
        answer = model.generate(PROMPT, stop_event=event, logit_bias={id: -100 for id in model.tokenizer.eos_ids})
        pieces.append(answer.finish_reason)
    assert pieces and event.is_set()


def test_many_threads_get_right_answers(model):
    prompts = [f"{word} of the city" for word in ["The history", "The end", "A map", "The king", "People", "Rivers"]]
    expected = {prompt: model.generate(prompt, max_new_tokens=32, temperature=0.8, seed=1).text for prompt in prompts}
    logits = model.logits(prompts[0], last=True)
    failures = []

    def work(index):
        try:
            for round in range(6):
                prompt = prompts[(index + round) % len(prompts)]
                if round % 3 == 2:
                    assert np.array_equal(model.logits(prompts[0], last=True), logits)
                elif round % 3 == 1:
                    stream = model.generate(prompt, max_new_tokens=32, temperature=0.8, seed=1, stream=True, interval=0)
                    assert "".join(map(str, stream)) == expected[prompt]
                else:
                    assert model.generate(prompt, max_new_tokens=32, temperature=0.8, seed=1).text == expected[prompt]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_chat_uses_the_template(gguf, tmp_path):
    model = sherry.Model.builtin(threads=1)
    template = model.tokenizer.chat_template
    assert template is None or "message" in template
    messages = [{"role": "user", "content": "Hello!"}]
    ids = model.tokenizer.apply_chat_template(messages)
    text = model.tokenizer.apply_chat_template(messages, tokenize=False)
    assert "Hello!" in text and ids == model.tokenizer.encode(text, add_special=False, parse_special=True)
    answer = model.chat(messages, max_new_tokens=8, temperature=0)
    assert answer.text == model.generate(ids, max_new_tokens=8, temperature=0).text
    assert "".join(map(str, model.chat(messages, stream=True, max_new_tokens=8, temperature=0))) == answer.text
    for bad in [5, "Hello", [5], [{"role": object()}], [{"content": float("nan")}], [{"role": "\ud800"}]]:
        with pytest.raises((ValueError, TypeError, sherry.SherryError)):
            model.chat(bad, max_new_tokens=1)


def test_tokenizers(model):
    tokenizer = model.tokenizer
    for text in ["", "Hello, world!", "naïve café 😀", " a  b\n"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("x")[0] == tokenizer.bos_id != tokenizer.encode("x", add_special=False)[0]
    assert len(tokenizer) == tokenizer.vocab_size > 1000
    assert tokenizer.token_to_id(tokenizer.id_to_token(500)) == 500
    assert tokenizer.id_to_token(10**6) is None
    assert tokenizer.eos_ids
    control = tokenizer.id_to_token(tokenizer.eos_ids[0])
    assert tokenizer.encode(control, parse_special=True)[-1] in tokenizer.eos_ids
    assert not set(tokenizer.encode(control, add_special=False)) & set(tokenizer.eos_ids)
    with pytest.raises(ValueError):
        tokenizer.encode("\ud800")
