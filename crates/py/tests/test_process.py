"""Forks, processes, threads of Python's, signals: what goes wrong in other extension modules."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import sherry

PROMPT = "Once upon a time"
GREEDY = {"max_new_tokens": 16, "temperature": 0}
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def in_child(work, seconds=60):
    """Whether `work` returns without an exception in a forked child."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def use_everything(model, packed, expected):
    assert model.generate(PROMPT, **GREEDY).text == expected
    assert "".join(map(str, model.generate(PROMPT, stream=True, **GREEDY))) == expected
    assert model.session().generate(model.tokenizer.encode(PROMPT), **GREEDY).text == expected
    model.perplexity(PROMPT * 20, window=16)
    sherry.quantize(np.ones((32, 64), np.float32))
    packed.linear(np.ones(64, np.float32))
    packed.dequantize()
    del model


@fork
def test_a_forked_child_can_use_everything():
    model = sherry.Model.builtin(threads=2)
    expected = model.generate(PROMPT, **GREEDY).text
    weights = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    packed = sherry.quantize(weights)
    use_everything(model, packed, expected)
    stream = model.generate(PROMPT, stream=True, interval=0, **GREEDY)
    session = model.session()
    next(stream)

    def work():
        use_everything(model, packed, expected)
        for call in [lambda: next(stream), lambda: session.feed([1]), lambda: session.position]:
            with pytest.raises(sherry.SherryError, match="process"):
                call()
        stream.close()

    for _ in range(2):
        assert in_child(work)
    assert in_child(lambda: None)  # a child that only drops things
    assert model.generate(PROMPT, **GREEDY).text == expected
    assert "".join(map(str, stream))


@fork
def test_forks_while_other_threads_generate():
    """Locks that other threads hold at the fork stay locked in the child; it must not need them."""
    model = sherry.Model.builtin(threads=2)
    expected = model.generate(PROMPT, **GREEDY).text
    packed = sherry.quantize(np.ones((32, 64), np.float32))
    ended = threading.Event()

    def busy():
        while not ended.is_set():
            model.generate(PROMPT, max_new_tokens=32)
            model.logits(PROMPT)
            packed.linear(np.ones(64, np.float32))
            sherry.quantize(np.ones((32, 64), np.float32))

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert in_child(lambda: use_everything(model, packed, expected))
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _answer(prompt):
    return sherry.Model.builtin(threads=1).generate(prompt, **GREEDY).text


_shared = None


def _answer_shared(prompt):
    return _shared.generate(prompt, **GREEDY).text


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(method, model):
    global _shared
    expected = [model.generate(PROMPT, **GREEDY).text] * 4
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map_async(_answer, [PROMPT] * 4).get(120) == expected
    if method == "fork":
        _shared = model
        with context.Pool(2) as pool:
            assert pool.map_async(_answer_shared, [PROMPT] * 4).get(120) == expected


def test_a_busy_thread_does_not_slow_generation_down(model):
    """Attaching to the interpreter for every token costs 5 ms where another thread is busy. Counted, not timed: while
    400 tokens are generated, a thread that never gives the interpreter away by itself must not be asked 400 times."""
    ends = {id: -100 for id in model.tokenizer.eos_ids}
    ended = threading.Event()

    def busy():
        while not ended.is_set():
            sum(range(1000))

    thread = threading.Thread(target=busy)
    interval = sys.getswitchinterval()
    thread.start()
    try:
        # So long an interval that one switch per token would take minutes.
        sys.setswitchinterval(0.25)
        start = time.monotonic()
        answer = model.generate(PROMPT, max_new_tokens=400, logit_bias=ends)
        pieces = list(model.generate(PROMPT, max_new_tokens=400, logit_bias=ends, stream=True, interval=600))
        seconds = time.monotonic() - start
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()
    assert len(answer.tokens) == 400 and len(pieces) == 2
    assert seconds < 60, seconds


def test_a_slow_look_is_followed_by_a_pause(model):
    """However long a look at an event takes, the next comes 50 ms after it, and not with the next tokens."""

    class Event:
        looks = 0

        def is_set(self):
            self.looks += 1
            time.sleep(0.2)
            return False

    event = Event()
    start = time.monotonic()
    model.generate(PROMPT, max_new_tokens=400, logit_bias={id: -100 for id in model.tokenizer.eos_ids}, stop_event=event)
    seconds = time.monotonic() - start
    assert event.looks >= 1
    assert seconds >= 0.2 * event.looks + 0.05 * (event.looks - 1), (event.looks, seconds)


def test_other_threads_run_meanwhile(model):
    ends = {id: -100 for id in model.tokenizer.eos_ids}
    count = 0
    started, ended = threading.Event(), threading.Event()

    def tick():
        nonlocal count
        started.set()
        while not ended.is_set():
            count += 1
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    started.wait()
    before = count
    model.generate(PROMPT, max_new_tokens=400, logit_bias=ends)
    during = count - before
    ended.set()
    thread.join()
    assert during > 100, during


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(
    "work",
    [
        "while True: model.generate('The history', logit_bias=ends)",
        "while True: [piece for piece in model.generate('The history', stream=True, interval=9, logit_bias=ends)]",
        "while True: model.session().generate('The history', logit_bias=ends)",
        "model.perplexity('Once upon a time ' * 400000, window=64)",
        "while True: model.logits([5] * 500)",
    ],
)
def test_ctrl_c_ends_work(work):
    # A job in the background of a shell inherits that Ctrl-C is ignored, which Python then leaves so.
    program = f"""
        import signal, sherry
        signal.signal(signal.SIGINT, signal.default_int_handler)
        model = sherry.Model.builtin(threads=1)
        ends = {{id: -100 for id in model.tokenizer.eos_ids}}
        print("ready", flush=True)
        try:
            {work}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            # Everything still works.
            print(model.generate("The history", max_new_tokens=2).finish_reason)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == "interrupted\nlength\n", (out, error)


def test_without_numpy_it_is_an_import_error():
    program = "import sys; sys.modules['numpy'] = None\ntry:\n import sherry\nexcept ImportError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "numpy" in done.stdout and "panicked" not in done.stderr, done


def test_memory_does_not_grow(model):
    """Streams that are left, sessions and matrices give back what they took."""
    resource = pytest.importorskip("resource")

    def round():
        for _ in range(20):
            next(model.generate(PROMPT, stream=True, interval=0))
            model.session().feed([1, 2, 3])
            model.logits([5] * 200)
            sherry.quantize(np.ones((256, 1024), np.float32)).codes

    round()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        round()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, grown


@pytest.mark.parametrize("what", ["generate", "stream", "logits", "perplexity", "quantize", "product", "load"])
def test_python_goes_on_while_the_module_works(what):
    """A thread that counts counts on. It gets the interpreter only when this thread lets it go, which Python itself does not do here:
    the interval after which it would make threads take turns is too long."""
    model = sherry.Model.builtin(threads=1)
    weights = np.ones((512, 1024), np.float32)
    packed = sherry.quantize(weights)
    work = {
        "generate": lambda: model.generate(PROMPT, max_new_tokens=64, temperature=0),
        "stream": lambda: [piece for piece in model.generate(PROMPT, max_new_tokens=64, temperature=0, stream=True)],
        "logits": lambda: model.logits(model.tokenizer.encode(PROMPT * 8)),
        "perplexity": lambda: model.perplexity(PROMPT * 20, window=64),
        "quantize": lambda: sherry.quantize(weights),
        "product": lambda: packed.linear(np.ones((256, 1024), np.float32)),
        "load": lambda: sherry.Model.builtin(threads=1),
    }[what]
    count, ended = 0, False

    def counting():
        nonlocal count
        while not ended:
            count += 1
            time.sleep(0)  # lets the others on

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    thread = threading.Thread(target=counting)
    thread.start()
    try:
        for _ in range(100):
            before = count
            work()
            if count > before:
                return
        raise AssertionError(f"nothing else ran during 100 times {what}")
    finally:
        ended = True
        sys.setswitchinterval(interval)
        thread.join()
