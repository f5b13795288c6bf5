"""Writes expected.json: what Jinja2, set up as in transformers' apply_chat_template, makes of every case.

Run in this folder: python3 generate.py (needs jinja2).
"""

import itertools
import json
import pathlib

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment


def raise_exception(message):
    raise TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: {"%d %b %Y": "06 Jul 2024"}[f]

message = lambda role, text: {"role": role, "content": text}
CONVERSATIONS = [
    [message("user", "Hello")],
    [message("system", " Be brief. "), message("user", "  Hi\n")],
    [message("user", "1+1?"), message("assistant", "<think>\nhm\n</think>\n\n2"), message("user", "é 漢 😀")],
    [message("user", "x"), message("assistant", "<think>\na\n</think>\n\nb")],
    [message("user", "x"), message("tool", "r1"), message("tool", "r2")],
    [message("user", "x"), message("user", "y")],
    [message("user", "<tool_response>z</tool_response>")],
]
CASES = []
for path in sorted(pathlib.Path(".").glob("*.jinja")):
    for messages, prompt in itertools.product(CONVERSATIONS, [True, False]):
        CASES.append({"file": path.name, "messages": messages, "variables": {}, "prompt": prompt})
CASES.append({"file": "qwen3.jinja", "messages": CONVERSATIONS[0], "variables": {"enable_thinking": False}, "prompt": True})
TOOLS = {"tools": [{"name": "f", "args": {"x": [1, 2.5, None, True], "y": "é\"\n\u0001"}}, {}]}
CASES.append({"file": "qwen3.jinja", "messages": CONVERSATIONS[0], "variables": TOOLS, "prompt": True})

# One line each: the language itself.
SNIPPETS = r"""
a {%- if true %} b {% endif -%} c
{% if 1 -%}   x{%+ endif %}  y
  {% set x = 1 %}  {{ x }}
{# c #} a {#- d -#} b
{{ "a" 'b' ~ 1 ~ none ~ true ~ 1.5 ~ undefined_thing }}|
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 5 }} {{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 4 / 2 }} {{ -2 ** 2 }}
{{ [1, "a", none, true, 1.0, [2], (3,), {"k": 'v'}] }} {{ (1, 2) }} {{ "it's" }} {{ ["it's", 'q"'] }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ "a" in "abc" }} {{ 2 not in [1, 2] }} {{ "k" in {"k": 1} }} {{ 1 == 1.0 }} {{ true == 1 }}
{{ "x" if false else "y" }} {{ "x" if false }}| {{ not true or true and false }}
{{ [1,2,3,4][1:] }} {{ [1,2,3,4][:-1] }} {{ [1,2,3,4][::-1] }} {{ "héllo"[1:3] }} {{ "abc"[-1] }} {{ [1,2][5] }}| {{ [1,2,3,4][3:0:-2] }}
{{ " a ".strip() }}|{{ "xxaxx".strip("x") }}|{{ "a,b,,c".split(",") }}|{{ "a b  c".split() }}|{{ "a.b.c".split(".", 1) }}|{{ "a.b.c".rsplit(".", 1) }}
{{ "hello world".title() }} {{ "HELLO".capitalize() }} {{ "it's a dog-house"|title }} {{ "ß".upper() }} {{ "aXa".replace("a", "bb") }} {{ "aaa"|replace("a", "b", 2) }}
{{ "abc".find("c") }} {{ "abc".find("x") }} {{ "a\nb\n".splitlines() }} {{ "-".join(["a", "b"]) }} {{ "12".isdigit() }} {{ "abc".startswith(("x", "a")) }} {{ "banana".count("an") }}
{{ {"a": 1, "b": 2}.items()|list }} {{ {"a": 1}.get("b", 3) }} {{ {"a": 1}.get("b") }} {{ {"a": 1, "b": 2}|length }} {{ {"b": 1, "a": 2}|dictsort }} {{ {"a": {"b": 5}}.a.b }}
{% for k, v in {"a": 1, "b": 2}.items() %}{{ k }}={{ v }}{{ "," if not loop.last }}{% endfor %}
{% for x in [1, 2, 3, 4] if x is even %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ loop.previtem }}{{ loop.nextitem }} {% else %}none{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}{% for x in [1,2,3,4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in [1,2,3] %}{{ loop.cycle("a", "b") }}{{ loop.revindex }}{{ loop.first }}{% endfor %}
{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b=[]) %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.nothing }}
{% macro f(a, b="z", c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, c=2) }}{{ f(b="q", a=0) }}{{ f() }}
{% set g = 5 %}{% macro h(n) %}{% if n > 0 %}{{ n }}{{ g }}{{ h(n - 1) }}{% endif %}{% endmacro %}{{ h(3) }}
{% set block %}  a {{ 1 }}  {% endset %}[{{ block }}]{{ block|trim|length }}
{% set a, b = 1, "x" %}{{ a }}{{ b }}{% set t = (1, 2) %}{{ t }}
{% raw %}{{ not }} {% if %}{% endraw %} {{ '{{' }} {{ "%}" }}
{{ [3, 1, 2]|sort }} {{ ["b", "a"]|join("-") }} {{ [1, 1, 2]|unique|list }} {{ [1,2,3]|first }} {{ [1,2,3]|last }} {{ [1,2]|reverse|list }} {{ "abc"|reverse }} {{ "abc"|list }}
{{ [{"r": "u", "n": 1}, {"r": "a"}]|selectattr("r", "equalto", "u")|list }} {{ [{"r": 1}, {"r": 2}]|map(attribute="r")|join(",") }} {{ ["a", "b"]|map("upper")|list }} {{ [0, 1, none, "x"]|select|list }} {{ [{"r": 1}, {}]|rejectattr("r")|list }}
{{ undefined_thing|default("d") }} {{ ""|default("e", true) }} {{ none|d("f") }} {{ undefined_thing is defined }} {{ none is none }} {{ "a" is string }} {{ [] is iterable }} {{ {} is mapping }} {{ 1 is number }} {{ true is boolean }} {{ 4 is divisibleby 2 }} {{ 1 is not none }} {{ false is false }} {{ "a" is sequence }}
{{ {"a": [1, {"b": "é<"}], "c": none}|tojson }} {{ [1, {"a": []}]|tojson(indent=2) }} {{ "q\"\n"|tojson }} {{ {}|tojson(indent=4) }} {{ 1e20|tojson }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1.5e-7 }} {{ 100.0 }}
{{ "a\nb"|indent(2) }} {{ "a\n\nb"|indent(2, true) }} {{ "3"|int + 1 }} {{ "x"|int(7) }} {{ "2.5"|float }} {{ 3.9|int }} {{ 5|string + "a" }} {{ -3|abs }}
{{ "abc".__class__ }}| {{ messages.__class__ }}| {{ messages[0].nothing }}| {{ [].append }}|
{{ range(3)|list }} {{ range(1, 7, 2)|list }} {{ range(3, 0, -1)|list }} {{ dict(a=1, b="x") }}
{{ "tab\there" }} {{ 'q\'s' }} {{ "\u00e9\x41" }} {{ "back\\slash" }}
"""
for snippet in SNIPPETS.strip().split("\n"):
    CASES.append({"template": snippet, "messages": CONVERSATIONS[0], "variables": {}, "prompt": True})
CASES.append({"template": "a\n{% if true %}\n  b\n  {% if true %}\n    c\n  {% endif %}\n{% endif %}\nd\n{{ 1 }}\n\n  {#- x #}\ne\n", "messages": [], "variables": {}, "prompt": True})
CASES.append({"template": "{% for x in [1, 2] %}\n  {{ x }}\n{% endfor %}\n  {%- set y = 1 +%}\n  z\n{%+ if true %} k {% endif +%}\nq\n\n", "messages": [], "variables": {}, "prompt": True})

for case in CASES:
    source = case.get("template") or pathlib.Path(case["file"]).read_text()
    values = dict(messages=case["messages"], add_generation_prompt=case["prompt"], bos_token="<B>", eos_token="<E>")
    try:
        case["expected"] = env.from_string(source).render(**values, **case["variables"])
    except TemplateError as err:
        case["error"] = str(err)
with open("expected.json", "w") as out:
    out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in CASES) + "\n]\n")
