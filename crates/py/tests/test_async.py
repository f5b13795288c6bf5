"""asyncio: nothing holds up the loop, and cancelling a task ends its generation."""

import asyncio
import time

import sherry

PROMPT = "Once upon a time"
GREEDY = {"max_new_tokens": 24, "temperature": 0}


def test_agenerate_and_achat(model):
    async def main():
        answers = await asyncio.gather(*(model.agenerate(PROMPT, **GREEDY) for _ in range(12)))
        chat = await model.achat([{"role": "user", "content": "Hi"}], **GREEDY)
        return answers, chat

    answers, chat = asyncio.run(main())
    assert {answer.text for answer in answers} == {model.generate(PROMPT, **GREEDY).text}
    assert chat.text == model.chat([{"role": "user", "content": "Hi"}], **GREEDY).text


def test_astream(model):
    async def main():
        pieces = [piece.text async for piece in model.astream(PROMPT, interval=0, **GREEDY)]
        chat = [piece.text async for piece in model.astream_chat([{"role": "user", "content": "Hi"}], **GREEDY)]
        async for _ in model.astream(PROMPT, interval=0):
            break
        return pieces, chat

    pieces, chat = asyncio.run(main())
    assert len(pieces) > 12 and "".join(pieces) == model.generate(PROMPT, **GREEDY).text
    assert "".join(chat) == model.chat([{"role": "user", "content": "Hi"}], **GREEDY).text


def test_cancelling_a_task_ends_its_generation():
    model = sherry.Model.builtin(threads=1, sequences=1)
    ends = {id: -100 for id in model.tokenizer.eos_ids}
    calls = []

    def slow(ids, logits):
        calls.append(time.monotonic())
        time.sleep(0.02)

    async def main():
        task = asyncio.create_task(model.agenerate(PROMPT, logits_processor=slow, logit_bias=ends))
        while not calls:
            await asyncio.sleep(0.005)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        else:
            raise AssertionError("not cancelled")
        await asyncio.sleep(0.3)
        count = len(calls)
        await asyncio.sleep(0.3)
        assert len(calls) == count < model.context // 2
        # The only sequence is free again.
        return await asyncio.wait_for(model.agenerate(PROMPT, **GREEDY), 30)

    assert asyncio.run(main()).text


def test_the_loop_goes_on(model):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticker = asyncio.create_task(tick())
        ends = {id: -100 for id in model.tokenizer.eos_ids}
        await model.agenerate(PROMPT, max_new_tokens=400, logit_bias=ends)
        ticker.cancel()
        return ticks

    assert asyncio.run(main()) >= 5


def test_errors_come_through(model):
    async def main():
        for call in [model.agenerate(PROMPT, temperature=-1), model.achat(5), model.agenerate([])]:
            try:
                await call
            except (ValueError, TypeError, sherry.SherryError):
                continue
            raise AssertionError("no error")

    asyncio.run(main())
