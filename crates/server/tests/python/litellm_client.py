"""litellm against a running server. Argument: its address."""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # without asking the network

import litellm

litellm.suppress_debug_info = True
BASE = f"http://{sys.argv[1]}/v1"
MESSAGES = [{"role": "user", "content": "Say something."}]


def ask(**changes):
    return litellm.completion(model="openai/tiny", api_base=BASE, api_key="none", messages=MESSAGES, num_retries=0,
                              **dict({"max_tokens": 8, "temperature": 0}, **changes))


answer = ask()
assert answer.usage.completion_tokens <= 8
print("ok completion")
text = "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True))
assert text == answer.choices[0].message.content
print("ok stream")
try:
    ask(temperature=-1)
except litellm.BadRequestError as error:
    assert "temperature" in str(error)
else:
    raise AssertionError("a temperature of -1 was accepted")
print("ok errors")
