"""What Jinja2, set up as in transformers' apply_chat_template, makes of templates. Needs jinja2.

    python3 reference.py golden            writes expected.json: the cases that every test run checks
    python3 reference.py generated 1 5000  prints 5000 cases made from the seed 1, a JSON document a line
    python3 reference.py folder PATH       prints cases for every *.jinja below PATH: conversations of all kinds
"""

import datetime
import functools
import itertools
import json
import pathlib
import random
import re
import sys
import warnings

import jinja2
import jinja2.ext
import jinja2.sandbox

warnings.simplefilter("ignore")
NOW = datetime.datetime(2024, 7, 6, 5, 3, 9)
TOKENS = {"bos_token": "<B>", "eos_token": "<E>"}


class Generation(jinja2.ext.Extension):
    """The tag that transformers adds."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_generation"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _generation(self, context, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = NOW.strftime


@functools.lru_cache(16)
def compiled(template):
    return ENVIRONMENT.from_string(template)


def expect(case):
    """Adds the rendered text, or why there is none."""
    values = dict(messages=case["messages"], tools=case.get("tools"), documents=None)
    values.update(TOKENS, add_generation_prompt=case["prompt"], **case["variables"])
    try:
        text = compiled(case["template"]).render(**values)
        text.encode()
        # Where an object lies in memory is different each time: such templates are refused.
        if re.search(r" at 0x[0-9a-f]{6,}", text):
            case["error"] = "prints an address"
        else:
            case["expected"] = text
    except jinja2.exceptions.TemplateError as err:
        case["error"] = str(err)
    except Exception as err:
        case["error"] = f"{type(err).__name__}: {err}"
    return case


def case(template, messages=None, prompt=True, variables=None, **more):
    return {"template": template, "messages": messages or [], "variables": variables or {}, "prompt": prompt, **more}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


# ---- cases for every run ----

CONVERSATIONS = [
    [message("user", "Hello")],
    [message("system", " Be brief. "), message("user", "  Hi\n")],
    [message("user", "1+1?"), message("assistant", "<think>\nhm\n</think>\n\n2"), message("user", "é 漢 😀")],
    [message("user", "x"), message("assistant", "<think>\na\n</think>\n\nb")],
    [message("user", "x"), message("tool", "r1"), message("tool", "r2")],
    [message("user", "x"), message("user", "y")],
    [message("user", "<tool_response>z</tool_response>")],
]


def golden():
    cases = []
    for path in sorted(pathlib.Path(__file__).parent.glob("*.jinja")):
        for messages, prompt in itertools.product(CONVERSATIONS, [True, False]):
            cases.append(case(path.read_text(), messages, prompt, file=path.name))
    qwen = (pathlib.Path(__file__).parent / "qwen3.jinja").read_text()
    cases.append(case(qwen, CONVERSATIONS[0], True, {"enable_thinking": False}, file="qwen3.jinja"))
    tools = [{"name": "f", "args": {"x": [1, 2.5, None, True], "y": "é\"\n\u0001"}}, {}]
    cases.append(case(qwen, CONVERSATIONS[0], True, tools=tools, file="qwen3.jinja"))
    snippets = (pathlib.Path(__file__).parent / "snippets.txt").read_text()
    for snippet in snippets.split("\n----\n"):
        cases.append(case(snippet, CONVERSATIONS[0]))
    for each in cases:
        expect(each)
        if "file" in each:
            del each["template"]
    text = "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in cases) + "\n]\n"
    (pathlib.Path(__file__).parent / "expected.json").write_text(text)


# ---- cases from a seed ----

VALUES = r"""
none true false 0 1 2 -1 3 7 255 -3 12345678901234567890 1_000 0x1F 1.0 0.1 -2.5 2.5 1e16 1.5e-7 100.0 123456.789
'' 'a' 'abc' 'aBc' ' a b ' 'Hello World' 'a,b,,c' 'x\ny\n' '\tt\r\nu\x0bv' 'it\'s' '"q"' 'both\'"' 'é' 'ß' '漢字😀' 'ǆ' 'ΑΣ' '½' '١٢' '12' ' 42 ' '1_0'
'-3.7' '1e3' 'inf' '<b>&amp;</b>' '%s' '%d' '{}' '{0}-{a}' 'a-b c_d' 'back\\slash' '\u0000\u001f\u007f\u00a0\u200b' 'A\u0301' 'foo bar baz qux' 'É' 'ab\u2028c\u0085d'
[] [1] [1,2,3] [3,1,2] ['b','A','a','B'] ['x',1,none] [[1,2],[3,4]] [1,1.0,true] (1,) (1,2) () ('a','b') [none,false,0,''] [0.1,0.2] [{'a':1,'b':'x'},{'a':2,'b':'y'},{'a':1,'b':'X'}]
{} {'a':1} {'b':2,'a':1} {'a':{'b':[1]}} {1:2,none:3,1.5:4,true:5} {'items':1,'x':2} {'B':1,'a':2,'C':0}
missing data data.list data.text data.none data.nested data.number data.nothing range(3) range(1,8,3) range(5,0,-2) data.keys() data.values() data.items() 'x'|safe '<i>'|safe
[1,2,3]|map('string') ['a','b']|reverse [1,2]|select data.list|first dict(a=1,b=2) namespace(a=1,b='x') cycler('a','b') 'abc'|list ['a','b']|unique 'a'~1 messages messages[0] loop self 'abc'[1:] [1,2,3][::-1]
""".split("\n")
VALUES = [value for line in VALUES for value in re.findall(r"(?:[^\s'\"(\[{]|'(?:\\.|[^'])*'|\"(?:\\.|[^\"])*\"|\([^)]*\)|\[(?:[^\[\]]|\[[^\]]*\])*\]|\{(?:[^{}]|\{[^}]*\})*\})+", line)]
DATA = {
    "data": {
        "list": [1, "two", 3.5, None, True],
        "text": "Some TEXT, with\nlines é",
        "none": None,
        "nested": {"a": [{"b": 1, "c": "x"}, {"b": 2, "c": "Y"}], "d": {"e": "f"}},
        "number": 42,
        "false": False,
        "big": 18446744073709551615,
    },
    "people": [
        {"name": "Bo", "age": 30, "city": "x", "tags": ["a", "b"]},
        {"name": "al", "age": 25, "city": "Y", "tags": []},
        {"name": "Cy", "age": 30, "city": "X"},
    ],
}
FILTERS = {
    "abs": [""], "attr": ["('a')", "('upper')", "('real')"], "batch": ["(2)", "(2,'-')", "(3,fill_with=0)", "(0)"],
    "capitalize": [""], "center": ["", "(9)", "(4)"], "count": [""], "default": ["", "('d')", "('d',true)", "(boolean=true)"],
    "dictsort": ["", "(true)", "(by='value')", "(false,'value',true)", "(reverse=true)"], "e": [""], "escape": [""],
    "filesizeformat": ["", "(true)"], "first": [""], "float": ["", "(1.5)", "(default='x')"], "forceescape": [""],
    "format": ["", "(1)", "('a','b')", "(a=1)", "(1,2)"], "groupby": ["('a')", "('b')", "('b',case_sensitive=true)", "('z',default='q')", "(0)"],
    "indent": ["", "(2)", "(2,true)", "('> ',true,true)", "(width=1,blank=true)"], "int": ["", "(7)", "(0,16)", "(base=2)", "(default=none)"],
    "items": [""], "join": ["", "(',')", "(', ',attribute='a')", "(1)", "(d='-')"], "last": [""], "length": [""], "list": [""], "lower": [""],
    "map": ["('upper')", "('int')", "(attribute='a')", "(attribute='a',default=9)", "('default','z')", "('length')", "(attribute=0)", "('nofilter')", "()", "('string')"],
    "max": ["", "(true)", "(attribute='a')"], "min": ["", "(case_sensitive=true)", "(attribute='b')"], "pprint": [""],
    "reject": ["", "('odd')", "('none')", "('eq',1)"], "rejectattr": ["('a')", "('b','eq','x')", "()"], "replace": ["('a','b')", "('','-')", "('a','<',1)", "('b','')", "(old='x',new='y')"],
    "reverse": [""], "round": ["", "(1)", "(-1)", "(2,'floor')", "(0,'ceil')", "(1,'x')", "(precision=1)"], "safe": [""],
    "select": ["", "('odd')", "('string')", "('in',[1,2])", "('gt',1)", "('notest')"], "selectattr": ["('a')", "('a','equalto',1)", "('a','defined')", "('nested.a')", "('b','in',['x'])"],
    "slice": ["(2)", "(3,'-')", "(0)"], "sort": ["", "(true)", "(case_sensitive=true)", "(attribute='a')", "(attribute='b,a')", "(reverse=true,attribute='b')"],
    "string": [""], "striptags": [""], "sum": ["", "(start=10)", "(attribute='a')", "('a',1)"], "title": [""],
    "tojson": ["", "(indent=2)", "(true)", "(ensure_ascii=true)", "(separators=(',',':'))", "(sort_keys=true)", "(indent='-')", "(indent=0)"],
    "trim": ["", "('ab')", "(chars='<')", "(none)"], "truncate": ["", "(5)", "(5,true)", "(9,false,'..',0)", "(length=4,end='')"],
    "unique": ["", "(true)", "(attribute='a')", "(attribute='b')"], "upper": [""], "urlencode": [""], "urlize": ["", "(5)", "(nofollow=true,target='_b')"],
    "wordcount": [""], "wordwrap": ["", "(5)", "(4,false)", "(3,wrapstring='|')", "(6,break_on_hyphens=false)"], "xmlattr": ["", "(false)"], "nofilter": [""],
}
TESTS = [
    "odd", "even", "divisibleby 2", "divisibleby(3)", "defined", "undefined", "filter", "test", "none", "boolean", "false", "true", "integer", "float", "lower", "upper",
    "string", "mapping", "number", "sequence", "iterable", "callable", "escaped", "sameas none", "sameas true", "in [1,'a',none]", "in 'abc'", "eq 1", "equalto 'a'",
    "ne 1", "gt 1", "greaterthan 'a'", "ge 1", "lt 2", "lessthan 'b'", "le 2", "in data", "notest", "not none", "not defined", "eq",
]
METHODS = {
    "capitalize": ["()"], "casefold": ["()"], "center": ["(9)", "(8,'*')", "(7,'ab')"], "count": ["('a')", "('')", "('a',1)", "('b',-3,-1)"],
    "endswith": ["('c')", "(('c','d'))", "('b',0,2)", "('')"], "expandtabs": ["()", "(4)", "(tabsize=3)"], "find": ["('b')", "('z')", "('',9)", "('a',1,-1)"],
    "format": ["()", "(1)", "(1,a=2)", "(a='x')", "('x','y')"], "format_map": ["({'a':1})"], "index": ["('a')", "('z')"], "isalnum": ["()"], "isalpha": ["()"], "isascii": ["()"],
    "isdecimal": ["()"], "isdigit": ["()"], "isidentifier": ["()"], "islower": ["()"], "isnumeric": ["()"], "isprintable": ["()"], "isspace": ["()"], "istitle": ["()"], "isupper": ["()"],
    "join": ["(['x','y'])", "('ab')", "([1])", "([])"], "ljust": ["(6)", "(6,'-')"], "lower": ["()"], "lstrip": ["()", "('a ')"], "partition": ["(' ')", "('b')", "('')"],
    "removeprefix": ["('a')", "('')"], "removesuffix": ["('c')"], "replace": ["('a','b')", "('','-',2)", "('a','bb',1)"], "rfind": ["('a')", "('')"], "rindex": ["('b')"],
    "rjust": ["(6)"], "rpartition": ["(' ')", "(',')"], "rsplit": ["()", "(' ')", "(none,1)", "(',',1)", "(maxsplit=1)"], "rstrip": ["()", "('c')", "(none)"],
    "split": ["()", "(',')", "(' ',1)", "(none,1)", "(sep='b')", "('')", "(maxsplit=0)"], "splitlines": ["()", "(true)", "(keepends=true)"], "startswith": ["('a')", "(('x','a'))", "('b',1)"],
    "strip": ["()", "('a')", "(' ')"], "swapcase": ["()"], "title": ["()"], "translate": ["({97:'X',98:none,99:100})"], "upper": ["()"], "zfill": ["(6)", "(-1)"],
    "get": ["('a')", "('zz')", "('zz',5)", "(1)"], "items": ["()"], "keys": ["()"], "values": ["()"], "copy": ["()"], "append": ["(1)"], "pop": ["()"], "update": ["({})"], "extend": ["([1])"],
    "bit_length": ["()"], "conjugate": ["()"], "as_integer_ratio": ["()"], "nothing": ["()", ""], "__class__": ["", "()"], "fromkeys": ["(['a'])", "('ab',0)"],
}
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
FORMATS = (
    "%s %r %a %5s %-5s| %.2s %c %d %i %5d %-5d| %05d %+d %x %X %#x %o %#o %e %E %.2f %8.3f %g %G %#g %% %(a)s %(a)d %*d %.*f %5% %ld %y % d %+.1e %010.2f %-08.2f|"
    " {} {0} {1} {a} {0!r} {0!s} {0!a} {:5} {:<5}| {:>5} {:^5} {:*^7} {:d} {:x} {:#x} {:b} {:o} {:c} {:e} {:.2f} {:g} {:%} {:,} {:_} {:010,.2f} {:+} {:05} {:=+6} {:n} {:s} {:.2} {:{}} {0[a]} {0.a} {0[0]} {{}} {a!r:>6} {:10.3} {: d} {:z.1f} {:08b} {:_x} {:,d} {:G} {} {}".split()
)
SUBSCRIPTS = ["[0]", "[-1]", "[1:]", "[:1]", "[::-1]", "[-2:]", "['a']", "[none]", "[1:2:0]", "['items']", "[true]", "[:-1]", "[5:1:-2]", "[9]", ".a", ".items", ".x", ".0", "['upper']", "[1.0]", "[-9223372036854775808:9223372036854775807:9223372036854775807]"]
PARSED = ["1", " 1 ", "+5", "-0", "1_000", "_1", "1_", "0x1f", "0b11", "007", "1.5", "1e5", ".5", "5.", "inf", "-Infinity", "nan", "1__0", "", " ", "١٢", "½", "²", "1 2", "99999999999999999999", "1e400", "0o17", "z", "\u00a07", "1e-3", "1,5", "--1", "0X1F", "１２"]
SPACES = ["", " ", "\n", "\n\n", "  ", "\t", " \n ", "x", "\r\n", "x\n  ", "\u00a0", "\u2003\n"]
MARKS = ["", "-", "+"]


class Maker:
    """Makes templates from random numbers."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pick = self.random.choice

    def value(self, depth=0):
        roll = self.random.random()
        if depth > 2 or roll < 0.55:
            value = self.pick(VALUES)
            return f"({value})" if depth else value
        if roll < 0.70:
            return self.filtered(depth + 1)
        if roll < 0.78:
            return f"({self.value(depth + 1)} {self.pick(OPERATORS)} {self.value(depth + 1)})"
        if roll < 0.84:
            return self.method(depth + 1)
        if roll < 0.89:
            return self.subscript(depth + 1)
        if roll < 0.92:
            return f"({self.value(depth + 1)} if {self.value(depth + 1)} else {self.value(depth + 1)})"
        if roll < 0.95:
            return f"[{self.value(depth + 1)}, {self.value(depth + 1)}]"
        if roll < 0.97:
            return f"{{{self.pick(['1', 'none', repr('a'), '(1,2)', 'data.text'])}: {self.value(depth + 1)}}}"
        return f"({self.value(depth + 1)} is {self.pick(TESTS)})"

    def filtered(self, depth=0):
        name = self.pick(list(FILTERS))
        return f"({self.value(depth + 1)})|{name}{self.pick(FILTERS[name])}"

    def method(self, depth=0):
        name = self.pick(list(METHODS))
        return f"({self.value(depth + 1)}).{name}{self.pick(METHODS[name])}"

    def subscript(self, depth=0):
        # Jinja2 gives undefined where it can slice a constant before rendering, but fails when rendering.
        subscript = self.pick(SUBSCRIPTS)
        while True:
            value = self.value(depth)
            if ":" not in subscript or value.startswith(("(data", "data", "(messages")):
                return f"({value}){subscript}"

    def shown(self, value):
        """Prints values so that they can be told apart."""
        return self.pick(["{{{{ {} }}}}", "{{{{ {} }}}}", "{{{{ [{}] }}}}", "{{{{ ({})|list }}}}", "{{{{ ({})|string|length }}}}", "{{{{ ({})|tojson }}}}"]).format(value)

    def formatted(self):
        format, value = self.pick(FORMATS), self.value(1)
        if format.startswith("%"):
            return f"'{format}' % {self.pick([value, '(' + value + ',)', value + ',', '{' + repr('a') + ':' + value + '}', '(2,' + value + ')'])}"
        return f"'{format}'.format({self.pick([value, value + ', 3', 'a=' + value, value + ', a=1'])})"

    def tag(self, inside):
        left, right = self.pick(MARKS), self.pick(MARKS)
        return "{%" + left + " " + inside + " " + right + "%}"

    def text(self):
        return self.pick(SPACES) + self.pick(["", "", "a", "b c", "é"]) + self.pick(SPACES)

    def output(self):
        return "{{" + self.pick(["", "-"]) + " " + self.value(1) + " " + self.pick(["", "-"]) + "}}"

    def name(self):
        return self.pick("xyz")

    def body(self, depth, in_loop=False):
        return "".join(self.statement(depth + 1, in_loop) for _ in range(self.random.randint(1, 3)))

    def statement(self, depth=0, in_loop=False):
        t = self.tag
        roll = self.random.randint(0, 27)
        if depth > 3 or roll < 5:
            return self.text() + self.pick([self.output(), "{{ " + self.name() + " }}", "{{ loop.index }}" if in_loop else "q"]) + self.text()
        inner = lambda loop=in_loop: self.text() + self.body(depth, loop) + self.text()
        name, other, value = self.name(), self.name(), self.value(1)
        items = self.pick(["[1,2,3]", "people", "data", "'ab'", "range(3)", "[]", "data.items()", "[[1,2],[3,4]]", value, "people|map(attribute='name')", "x"])
        if roll < 9:
            target = self.pick([name, name, name, f"{name}, {other}"])
            condition = self.pick(["", "", f" if {name}", f" if {value}", f" if {name} is odd"])
            otherwise = self.pick(["", t("else") + inner(in_loop)])
            jump = self.pick(["", "", "", t("if " + value) + t(self.pick(["break", "continue"])) + t("endif")])
            looks = self.pick(["", "{{ loop." + self.pick("index index0 revindex revindex0 first last length depth depth0 previtem nextitem".split()) + " }}", "{{ loop.cycle('a','b') }}", "{{ loop.changed(" + name + ") }}", "{{ loop }}"])
            return t(f"for {target} in {items}{condition}") + inner(True) + looks + jump + inner(True) + otherwise + t("endfor")
        if roll < 10:
            return t("for n in [{'v':1,'c':[{'v':2,'c':[]},{'v':3,'c':[{'v':4}]}]}] recursive") + "{{ n.v }}{{ loop.depth }}" + inner(True) + "{% if n.c %}({{ loop(n.c) }}){% endif %}" + t("endfor")
        if roll < 13:
            middle = self.pick(["", t("elif " + self.value(1)) + inner()])
            return t("if " + self.pick([value, name, name + " is defined", "loop is defined"])) + inner() + middle + self.pick(["", t("else") + inner()]) + t("endif")
        if roll < 16:
            return t(f"set {name} = {value}")
        if roll < 17:
            return t(f"set {name}, {other} = {self.pick(['1, 2', value, '[1,2]', repr('ab')])}")
        if roll < 18:
            return t(f"set {name}" + self.pick(["", "|upper", "|replace('a','b')|trim", "|length"])) + inner() + t("endset")
        if roll < 19:
            return t(f"set ns = namespace({name}=1, {other}=none)" if name != other else "set ns = namespace()") + t(f"set ns.{name} = {value}") + "{{ ns." + name + " }}{{ ns." + other + " }}" + inner()
        if roll < 20:
            return t(f"with {name} = {value}" + self.pick(["", f", {other} = 5", f", {other} = {name}"])) + inner() + t("endwith")
        if roll < 22:
            parameters = self.pick(["", "a", "a, b=1", "a=x, b=a", "a, x=2"])
            special = self.pick(["", "{{ varargs }}", "{{ kwargs }}", "{{ caller() if caller }}", "{{ caller('q') }}", "{{ caller is defined }}"])
            calls = self.pick(["{{ m() }}", "{{ m(1) }}", "{{ m(1, 2) }}", "{{ m(1, b=3) }}", "{{ m(1, 2, 3, z=4) }}", "{{ m(*[1, 2]) }}", "{{ m(**{'a': 1}) }}", "{% call m(1) %}body{{ x }}{% endcall %}", "{% call(p) m(1) %}[{{ p }}]{% endcall %}", "{{ m }}", "{{ m.name }}{{ m.arguments }}"])
            return t(f"macro m({parameters})") + "{{ a }}{{ b }}" + special + inner(False) + t("endmacro") + calls
        if roll < 23:
            return t("filter " + self.pick(["upper", "trim", "replace('a','<')", "indent(2)", "title|reverse", "length", "e", "nofilter"])) + inner() + t("endfilter")
        if roll < 24:
            return "{#" + self.pick(MARKS) + " " + self.pick(["", "c", "{{ x", "\n", "%}"]) + " " + self.pick(MARKS) + "#}"
        if roll < 25:
            return "{%" + self.pick(MARKS) + " raw " + self.pick(["", "-"]) + "%}" + self.text() + "{{ x }}{% y %}" + self.text() + t("endraw")
        if roll < 26:
            return t("block b" + str(self.random.randint(0, 99999)) + self.pick(["", " scoped"])) + inner(False) + t("endblock")
        if roll < 27:
            return t("generation") + inner(False) + t("endgeneration")
        return t("autoescape " + self.pick(["true", "false"])) + inner() + t("endautoescape")

    def template(self):
        roll = self.random.random()
        if roll < 0.22:
            return self.shown(self.filtered())
        if roll < 0.34:
            return self.shown(self.method())
        if roll < 0.46:
            return self.shown(f"({self.value(2)}) {self.pick(OPERATORS)} ({self.value(2)})")
        if roll < 0.54:
            return self.shown(f"({self.value(1)}) is {self.pick(['', 'not '])}{self.pick(TESTS)}")
        if roll < 0.62:
            return self.shown(self.subscript())
        if roll < 0.70:
            return self.shown(self.formatted())
        if roll < 0.73:
            return self.shown(f"{self.pick(PARSED)!r}|{self.pick(['int', 'float', 'int(0,0)', 'int(0,16)', 'float|int', 'round', 'int(base=8)'])}")
        if roll < 0.80:
            return self.shown(self.value())
        return "".join(self.statement() for _ in range(self.random.randint(1, 4)))


def generated(seed, count):
    maker = Maker(seed)
    made = 0
    while made < count:
        template = maker.template()
        # Left out: what takes long, and the kinds of values that are refused by name.
        if re.search(r"\*\* ?\(?.*(\*\*|12345|255)|encode|\b1e16\b.*\*\*|12345678901234567890.*\*|\*.*12345678901234567890", template):
            continue
        each = expect(case(template, [message("user", "Hi <b>"), message("assistant", "Yo")], True, DATA))
        if re.search(r"complex|bytes|MemoryError|too large to", each.get("error", "") + each.get("expected", "")[:0]):
            continue
        made += 1
        print(json.dumps(each))


# ---- cases for real templates ----

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a place — \"now\".",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "more": {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
            },
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": [1, 2]}}}
TEXT_CALL = {"id": "call00002", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Köln\"}"}}


def conversations():
    u = lambda content, **more: message("user", content, **more)
    a = lambda content, **more: message("assistant", content, **more)
    s = lambda content, **more: message("system", content, **more)
    tool = lambda content, **more: message("tool", content, **more)
    special = "</s> [INST] <|im_end|><|eot_id|><end_of_turn> {{ x }} {% if %} <think> </think> <B>"
    yield [u("Hello")]
    yield [s("Be brief."), u("Hi")]
    yield [s(" \n spaced \n"), u("  Hi\n"), a(" Yo \n"), u("\tand?\n\n")]
    yield [u("1+1?"), a("2"), u("2+2?"), a("4"), u("3+3?")]
    yield [u("é 漢字 😀 \u00a0 \u2028 ½"), a("ß ΑΣ ı"), u("ok")]
    yield [u(special), a(special), u(special)]
    yield [s(special), u(special)]
    yield [u(""), a(""), u("")]
    yield [s(""), u("x")]
    yield [u("x"), a(None), u("y")]
    yield [u("x"), a("<think>\nhm\n</think>\n\nb"), u("y"), a("c", reasoning_content="because")]
    yield [u("x"), a("b", reasoning_content=" r ", thinking="t"), u("y")]
    yield [u("x"), u("y")]
    yield [a("first"), u("x")]
    yield [s("a"), s("b"), u("x")]
    yield [u("x"), s("late"), u("y")]
    yield [message("developer", "D"), u("x")]
    yield [message("unknown", "?"), u("x")]
    yield [u([{"type": "text", "text": "part one"}, {"type": "text", "text": " two"}])]
    yield [s([{"type": "text", "text": "sys"}]), u([{"type": "image"}, {"type": "text", "text": "see"}]), a([{"type": "text", "text": "I see"}])]
    yield [u("weather?"), a("", tool_calls=[CALL]), tool("{\"t\": 20}", tool_call_id="call00001", name="get_weather"), a("20 degrees."), u("thanks")]
    yield [u("weather?"), a(None, tool_calls=[CALL, {**CALL, "id": "call00003"}]), tool("20", tool_call_id="call00001"), tool("21", tool_call_id="call00003")]
    yield [u("weather?"), {"role": "assistant", "tool_calls": [CALL]}, tool("20", name="get_weather", tool_call_id="call00001"), u("and?")]
    yield [s("S"), u("weather?"), a("let me see", tool_calls=[TEXT_CALL]), tool({"t": 20}, tool_call_id="call00002"), a("20")]
    yield [u("weather?"), a("x", tool_calls=[]), u("y")]
    yield [u("weather?"), a("x", tool_calls=[{"name": "get_weather", "arguments": {"city": "x"}}]), tool("r"), tool("r2"), u("z")]
    yield [u("x", name="Ann"), a("y", name="Bot"), u("z")]
    yield [u("x"), a("y"), u("z", extra=[1, {"a": None}])]
    yield []


VARIABLES = [{}, {"enable_thinking": False}, {"enable_thinking": True, "thinking": True, "reasoning_effort": "high", "builtin_tools": ["x"]}, {"date_string": "01 Jan 2025", "tools_in_user_message": False, "xml_tools": [TOOL], "model_identity": "I am <B>", "documents": [{"title": "T", "text": "words", "doc_id": 1, "contents": "c"}]}]


def folder(path):
    for file in sorted(pathlib.Path(path).rglob("*.jinja")):
        source = file.read_text(errors="replace")
        for number, messages in enumerate(conversations()):
            for prompt, tools in itertools.product([True, False], [None, [TOOL], [TOOL["function"]], []]):
                variables = VARIABLES[(number + 2 * prompt + len(tools or "")) % len(VARIABLES)]
                more = {"tools": tools} if tools is not None else {}
                print(json.dumps(expect(case(source, messages, prompt, variables, file=file.name, **more))))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["golden"]:
            golden()
        case ["generated", seed, count]:
            generated(int(seed), int(count))
        case ["folder", path]:
            folder(path)
        case _:
            sys.exit(__doc__)
