"""The official OpenAI client against a running server. Arguments: the address of a server with tools, of one that wants
the key "secret", and of one in which few requests may wait.

Each check prints "ok" and its name when it has passed; anything else ends the program with a traceback.
"""

import asyncio
import json
import sys

import openai
from pydantic import BaseModel

BASE, CLOSED, NARROW = (f"http://{address}/v1" for address in sys.argv[1:4])
client = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0)
MESSAGES = [{"role": "user", "content": "Say something."}]
SHORT = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8}
TOOLS = [{
    "type": "function",
    "function": {
        "name": "light", "description": "Switches the light", "strict": True,
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
                       "additionalProperties": False},
    },
}]


def final(events):
    """What a streaming helper has put together, also where the answer was cut short, which the client takes for an error."""
    try:
        return events.get_final_completion()
    except openai.LengthFinishReasonError as error:
        return error.completion


def models():
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def answers():
    answer = client.chat.completions.create(**SHORT, temperature=0, logprobs=True, top_logprobs=3)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.finish_reason in ("length", "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in choice.logprobs.content)
    again = client.chat.completions.create(**SHORT, temperature=0)
    assert again.choices[0].message.content == choice.message.content


def streams():
    whole = client.chat.completions.create(**SHORT, temperature=0)
    stream = client.chat.completions.create(**SHORT, temperature=0, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    # The helper that puts a stream together.
    with client.chat.completions.stream(**SHORT, temperature=0) as events:
        answer = final(events)
    assert answer.choices[0].message.content == text


def cancelled_streams():
    for _ in range(3):
        stream = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=400, stream=True)
        next(iter(stream))
        stream.close()
    answers()


def choices_and_seeds():
    ask = dict(SHORT, temperature=1.0, n=3)
    a, b = (client.chat.completions.create(**ask, seed=7) for _ in range(2))
    texts = [choice.message.content for choice in a.choices]
    assert texts == [choice.message.content for choice in b.choices]
    assert [choice.index for choice in a.choices] == [0, 1, 2]
    other = client.chat.completions.create(**ask, seed=8)
    assert texts != [choice.message.content for choice in other.choices]


def stop_strings():
    text = client.completions.create(model="tiny", prompt="abc", max_tokens=20, temperature=0).choices[0].text
    stop = text[4:6]
    answer = client.completions.create(model="tiny", prompt="abc", max_tokens=20, temperature=0, stop=[stop])
    assert answer.choices[0].text == text[:text.index(stop)] and answer.choices[0].finish_reason == "stop"


def completions():
    answer = client.completions.create(model="tiny", prompt=["abc", "de"], max_tokens=3, echo=True, logprobs=2, temperature=0)
    assert [choice.text[:n] for choice, n in zip(answer.choices, (3, 2))] == ["abc", "de"]
    for choice in answer.choices:
        logprobs = choice.logprobs
        assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
        # A token that is part of a character has no text of its own; one that ends the answer is no part of the text.
        parts = any(token.startswith("bytes:") for token in logprobs.tokens)
        assert parts or "".join(logprobs.tokens).startswith(choice.text)
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)


class Weather(BaseModel):
    hot: bool
    degrees: int


def structured_answers():
    # The model is random: what holds is the form.
    for seed in range(3):
        try:
            answer = client.chat.completions.parse(
                model="tiny", messages=MESSAGES, response_format=Weather, max_tokens=200, temperature=0.8, seed=seed)
            assert isinstance(answer.choices[0].message.parsed, Weather)
        except openai.LengthFinishReasonError as error:
            assert error.completion.choices[0].message.content.startswith("{")


def tools():
    choice = {"type": "function", "function": {"name": "light"}}
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=200, temperature=0)
    call = answer.choices[0].message.tool_calls[0]
    assert call.type == "function" and call.function.name == "light"
    assert isinstance(json.loads(call.function.arguments)["on"], bool)
    # The conversation goes on with the result.
    messages = MESSAGES + [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, max_tokens=4)
    assert answer.choices[0].message.role == "assistant"
    # Streamed, put together by the client.
    with client.chat.completions.stream(
            model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=200, temperature=0) as events:
        answer = final(events)
    streamed = answer.choices[0].message.tool_calls[0].function
    assert (streamed.name, streamed.arguments) == (call.function.name, call.function.arguments)


def errors():
    def refused(kind, field, **changes):
        try:
            client.chat.completions.create(**dict(SHORT, **changes))
        except kind as error:
            assert field in str(error.body), error.body
        else:
            raise AssertionError(f"{changes} was accepted")

    refused(openai.BadRequestError, "temperature", temperature=-1)
    refused(openai.BadRequestError, "messages", messages=[])
    refused(openai.BadRequestError, "max_tokens", max_tokens=-3)
    refused(openai.BadRequestError, "top_logprobs", logprobs=True, top_logprobs=1000)
    refused(openai.NotFoundError, "no-such-model", model="no-such-model")
    try:
        openai.OpenAI(base_url=CLOSED, api_key="wrong", max_retries=0).chat.completions.create(**SHORT)
    except openai.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong key was accepted")
    assert openai.OpenAI(base_url=CLOSED, api_key="secret", max_retries=0).chat.completions.create(**SHORT).choices


def many_at_once():
    async def ask(asynchronous, seed):
        answer = await asynchronous.chat.completions.create(**SHORT, seed=seed, temperature=1.0)
        return answer.choices[0].message.content

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=BASE, api_key="none", max_retries=0) as asynchronous:
            return await asyncio.gather(*(ask(asynchronous, seed) for seed in range(24)))

    together = asyncio.run(all_of_them())
    alone = [client.chat.completions.create(**SHORT, seed=seed, temperature=1.0) for seed in range(24)]
    assert together == [answer.choices[0].message.content for answer in alone]


def told_to_come_again():
    async def ask(asynchronous, seed):
        try:
            return await asynchronous.chat.completions.create(**dict(SHORT, max_tokens=300), seed=seed, temperature=1.0)
        except openai.InternalServerError as error:
            assert error.status_code == 503 and int(error.response.headers["retry-after"]) >= 1, error
            return None

    async def all_of_them(retries):
        async with openai.AsyncOpenAI(base_url=NARROW, api_key="none", max_retries=retries) as asynchronous:
            return await asyncio.gather(*(ask(asynchronous, seed) for seed in range(32)))

    assert None in asyncio.run(all_of_them(0))
    assert None not in asyncio.run(all_of_them(20))


for check in (models, answers, streams, cancelled_streams, choices_and_seeds, stop_strings, completions, structured_answers,
              tools, errors, many_at_once, told_to_come_again):
    check()
    print("ok", check.__name__)
