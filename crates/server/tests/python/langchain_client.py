"""langchain-openai against a running server. Argument: its address."""

import sys

import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

BASE = f"http://{sys.argv[1]}/v1"


def chat(**options):
    return ChatOpenAI(model="tiny", base_url=BASE, api_key="none", max_retries=0, temperature=0, **options)


class Weather(BaseModel):
    hot: bool


@tool
def light(on: bool) -> str:
    """Switches the light."""
    return "done"


messages = [SystemMessage("Be brief."), HumanMessage("Say something.")]
answer = chat(max_tokens=8).invoke(messages)
assert answer.usage_metadata["output_tokens"] <= 8
print("ok invoke")
text = "".join(chunk.content for chunk in chat(max_tokens=8).stream(messages))
assert text == answer.content
print("ok stream")
assert [reply.content for reply in chat(max_tokens=8).batch([messages, messages])] == [text, text]
print("ok batch")
structured = chat(max_tokens=200).with_structured_output(Weather, method="json_schema", include_raw=True)
try:
    assert isinstance(structured.invoke(messages)["parsed"], Weather)
except openai.LengthFinishReasonError as error:
    # The model is random and may write white space for ever.
    assert error.completion.choices[0].message.content.startswith("{")
print("ok structured")
call = chat(max_tokens=200).bind_tools([light], tool_choice="light").invoke(messages)
assert call.tool_calls[0]["name"] == "light" and isinstance(call.tool_calls[0]["args"]["on"], bool)
history = messages + [call, ToolMessage("done", tool_call_id=call.tool_calls[0]["id"])]
assert chat(max_tokens=4).bind_tools([light]).invoke(history) is not None
print("ok tools")
