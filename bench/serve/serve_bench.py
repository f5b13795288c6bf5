#!/usr/bin/env python3
"""Load on OpenAI-compatible servers: throughput, time to the first token, time between tokens, fairness.

    python3 bench/serve/serve_bench.py --server sherry='sherry serve MODEL --port {port}' \\
        --server llama='llama-server -m MODEL.gguf --port {port}' --workload chat --clients 1,4,16 --rounds 3

Starts each server in turn (`{port}` becomes a free port), sends streamed completions over plain sockets, records the
time of every event, stops the server, and goes on to the next, round by round, so that noise of the machine meets all
alike. Prints one table with medians over the rounds and the ratios to the last server named, or JSON with --json.
Needs Python's standard library only.
"""

import argparse
import asyncio
import json
import os
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

# Words of one or two tokens in every vocabulary, so that prompts have nearly the same length everywhere.
WORDS = "the of and to in that it was he for on are with they at be this from have or by one had not but what all were when we there can an your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time could no make than first been its who now people my made over did down only way find use may water long little very after words called just where most know".split()

# Tokens of prompts and answers. `shared` has a beginning that all prompts have in common.
WORKLOADS = {
    "chat": {"prompt": 128, "answer": 128},
    "document": {"prompt": 1024, "answer": 64},
    "question": {"prompt": 512, "answer": 16},
    "write": {"prompt": 16, "answer": 256},
    "shared": {"prompt": 64, "answer": 64, "common": 1024},
    "mixed": {"prompt": 128, "answer": 128, "long": (4096, 16), "share": 0.2},
    "overload": {"prompt": 128, "answer": 128},
}


def text(words, seed):
    """So many words, the same for the same seed."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server."""

    def __init__(self, command, log):
        self.port = free_port()
        arguments = [part.replace("{port}", str(self.port)) for part in shlex.split(command)]
        self.process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)

    def wait(self, seconds=120):
        """Until it is ready."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                sys.exit(f"a server ended with {self.process.returncode} while starting")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.05)
        sys.exit("a server was not ready in time")

    def usage(self):
        """Resident bytes and CPU seconds of the process."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
            return int(fields[21]) * page, (int(fields[11]) + int(fields[12])) / tick
        except OSError:
            return 0, 0.0

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


async def ask(port, prompt, answer):
    """One streamed completion. Returns when it began and when each token came, and the status."""
    body = json.dumps({"prompt": prompt, "max_tokens": answer, "temperature": 0.8, "seed": 1, "stream": True, "ignore_eos": True,
                       "stream_options": {"include_usage": True}}).encode()
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    times, generated, status = [], 0, 0
    try:
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        async for line in reader:
            line = line.strip()
            if not line.startswith(b"data: ") or line == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                generated = event["usage"]["completion_tokens"]
            if "error" in event:
                status = 500
            elif any(choice.get("text") for choice in event.get("choices", [])):
                times.append(time.monotonic())
    except (OSError, ValueError, IndexError):
        status = status or 599
    finally:
        writer.close()
    return {"began": began, "times": times, "status": status, "tokens": generated or len(times), "ended": time.monotonic()}


def prompts_of(workload, seed):
    """An endless sequence of (prompt, tokens of the answer); unique, but for what a workload shares."""
    spec = WORKLOADS[workload]
    common = text(spec["common"], 0) + " " if "common" in spec else ""
    rng = random.Random(seed)
    number = 0
    while True:
        number += 1
        if "long" in spec and rng.random() < spec["share"]:
            words, answer = spec["long"]
        else:
            words, answer = spec["prompt"], spec["answer"]
        yield common + text(words, f"{seed}-{number}"), answer


async def closed(port, workload, clients, requests, seed):
    """So many clients, each asking again as soon as it has its answer."""
    results = [[] for _ in range(clients)]
    left = [requests]

    async def client(index):
        source = prompts_of(workload, f"{seed}-{index}")
        while left[0] > 0:
            left[0] -= 1
            results[index].append(await ask(port, *next(source)))

    await asyncio.gather(*(client(index) for index in range(clients)))
    return results


async def opened(port, workload, rate, requests, seed):
    """Requests that arrive at random, so many per second, whether or not others have ended."""
    rng, source, tasks = random.Random(seed), prompts_of(workload, seed), []
    for _ in range(requests):
        tasks.append(asyncio.create_task(ask(port, *next(source))))
        await asyncio.sleep(rng.expovariate(rate))
    return [[result] for result in await asyncio.gather(*tasks)]


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def summary(results, wall):
    flat = [result for client in results for result in client]
    good = [result for result in flat if result["status"] == 200 and result["times"]]
    first = [result["times"][0] - result["began"] for result in good]
    between = [b - a for result in good for a, b in zip(result["times"], result["times"][1:])]
    tokens = sum(result["tokens"] for result in good)
    shares = [sum(result["tokens"] for result in client) for client in results]
    squares = sum(share * share for share in shares)
    return {
        "tokens_per_second": tokens / wall,
        "first_p50_ms": 1000 * percentile(first, 0.5), "first_p99_ms": 1000 * percentile(first, 0.99),
        "between_p50_ms": 1000 * percentile(between, 0.5), "between_p99_ms": 1000 * percentile(between, 0.99),
        "between_max_ms": 1000 * max(between, default=float("nan")),
        "jain": sum(shares) ** 2 / (len(shares) * squares) if squares else float("nan"),
        "refused": sum(result["status"] == 503 for result in flat) / len(flat),
        "errors": sum(result["status"] not in (200, 503) for result in flat),
        "requests": len(flat),
    }


async def measure(server, workload, clients, requests, rate, seed):
    # One answer first, so that nothing is measured that happens only once.
    await ask(server.port, text(16, "warm"), 4)
    _, before = server.usage()
    began = time.monotonic()
    if rate:
        results = await opened(server.port, workload, rate, requests, seed)
    else:
        results = await closed(server.port, workload, clients, requests, seed)
    wall = time.monotonic() - began
    resident, after = server.usage()
    return {**summary(results, wall), "resident_mb": resident / 1e6, "cpu_cores": (after - before) / wall}


COLUMNS = [("tokens_per_second", "tok/s", 1), ("first_p50_ms", "first p50 ms", 0), ("first_p99_ms", "p99", 0),
           ("between_p50_ms", "between p50 ms", 1), ("between_p99_ms", "p99", 1), ("between_max_ms", "max", 0), ("jain", "Jain", 3),
           ("refused", "503", 2), ("errors", "errors", 0), ("resident_mb", "MB", 0), ("cpu_cores", "cores", 2)]


def table(rows):
    """Medians over the rounds, and throughput as a ratio to the last server."""
    print("| workload | load | server | " + " | ".join(name for _, name, _ in COLUMNS) + " | ratio |")
    print("|---|---|---|" + "---:|" * (len(COLUMNS) + 1))
    for (workload, load), servers in rows.items():
        base = list(servers.values())[-1]
        reference = statistics.median(one["tokens_per_second"] for one in base)
        for name, rounds in servers.items():
            cells = [f"{statistics.median(one[key] for one in rounds):.{digits}f}" for key, _, digits in COLUMNS]
            ratio = statistics.median(one["tokens_per_second"] for one in rounds) / reference if reference else float("nan")
            print(f"| {workload} | {load} | {name} | " + " | ".join(cells) + f" | {ratio:.2f}x |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=COMMAND", help="a server; {port} is replaced")
    parser.add_argument("--workload", default="chat", help=f"of {', '.join(WORKLOADS)}; several by commas")
    parser.add_argument("--clients", default="1", help="clients at a time; several by commas")
    parser.add_argument("--rate", type=float, default=0.0, help="arrivals per second instead of clients that wait")
    parser.add_argument("--requests", type=int, default=0, help="requests in all; 4 per client by default")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--log", default=os.devnull, help="where the servers write")
    args = parser.parse_args()
    servers = dict(entry.split("=", 1) for entry in args.server)
    rows = {}
    with open(args.log, "ab") as log:
        for round_number in range(args.rounds):
            for workload in args.workload.split(","):
                for clients in map(int, args.clients.split(",")):
                    for name, command in servers.items():
                        server = Server(command, log)
                        try:
                            server.wait()
                            requests = args.requests or 4 * clients
                            result = asyncio.run(measure(server, workload, clients, requests, args.rate, f"r{round_number}"))
                        finally:
                            server.stop()
                        load = f"{args.rate}/s" if args.rate else f"{clients} clients"
                        rows.setdefault((workload, load), {}).setdefault(name, []).append(result)
                        print(f"round {round_number + 1}: {workload}, {load}, {name}: {result['tokens_per_second']:.1f} tok/s", file=sys.stderr)
    if args.json:
        print(json.dumps([{"workload": w, "load": l, "server": s, "rounds": r} for (w, l), by in rows.items() for s, r in by.items()], indent=1))
    else:
        table(rows)


if __name__ == "__main__":
    main()
