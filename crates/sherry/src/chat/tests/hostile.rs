//! Templates that do harm, or try to.

use serde_json::Value;

use super::*;

/// Runs `test` with the stack that is promised to be enough, also in a build with little optimisation.
fn with_little_stack(test: fn()) {
    let thread = std::thread::Builder::new().stack_size(3 << 19).spawn(test).unwrap();
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn hostile_templates_end_in_an_error() {
    with_little_stack(hostile_templates);
}

fn hostile_templates() {
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let nested = "{% if 1 %}".repeat(20_000);
    let sum = format!("{{{{ 1{} }}}}", "+1".repeat(100_000));
    let minus = format!("{{{{ {}1 }}}}", "-".repeat(100_000));
    let not = format!("{{{{ {}1 }}}}", "not ".repeat(50_000));
    let lists = format!("{{{{ {}{} }}}}", "[".repeat(5000), "]".repeat(5000));
    let filters = format!("{{{{ 'a'{} }}}}", "|trim".repeat(40_000));
    let attributes = format!("{{{{ messages{} }}}}", "[0]".repeat(40_000));
    let conditions = format!("{{{{ {}1 }}}}", "0 if 0 else ".repeat(10_000));
    let cases: [(&str, &str); 58] = [
        ("{{ 'a' * 100000000 }}", ""),
        ("{{ [0] * 1000000000 }}", "text"),
        ("{{ (1,) * 9999999999999999999 }}", "text"),
        (
            "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
            "text",
        ),
        (
            "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
            "text",
        ),
        (
            "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s = ns.s.replace('a', ns.s) %}{% endfor %}",
            "text",
        ),
        (
            "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s = ns.s|list|join(ns.s) %}{% endfor %}",
            "text",
        ),
        (
            "{% set ns = namespace(s='a%s%s') %}{% for i in range(40) %}{% set ns.s = ns.s % (ns.s, ns.s) %}{% endfor %}",
            "argument",
        ),
        (
            "{% set ns = namespace(s='ab') %}{% for i in range(40) %}{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}",
            "text",
        ),
        (
            "{% set ns = namespace(s='<') %}{% for i in range(40) %}{% set ns.s = (ns.s|e|string)|forceescape ~ ns.s %}{% endfor %}",
            "text",
        ),
        ("{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", "text"),
        (
            "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
            "",
        ),
        (
            "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
            "",
        ),
        (
            "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|pprint }}",
            "",
        ),
        (
            "{% set ns = namespace(l=(1,)) %}{% for i in range(40) %}{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ {ns.l: 1}|length }}",
            "steps",
        ),
        (
            "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
            "steps",
        ),
        (
            "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ [ns.l, ns.m]|sort|length }}",
            "steps",
        ),
        ("{% set ns = namespace(l=[1]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}", "deep"),
        ("{% set ns = namespace(l={}) %}{% for i in range(100000) %}{% set ns.l = {'a': ns.l} %}{% endfor %}", "deep"),
        (
            "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l|map('string') %}{% endfor %}",
            "deep",
        ),
        (
            "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l|batch(1, ns.l) %}{% endfor %}",
            "deep",
        ),
        ("{% set ns = namespace(l='') %}{% for i in range(100000) %}{% set ns.l = cycler(ns.l) %}{% endfor %}", "deep"),
        ("{% set ns = namespace(l='') %}{% for i in range(100000) %}{% set ns.l = joiner(ns.l) %}{% endfor %}", "deep"),
        (
            "{% set ns = namespace(l=1) %}{% for i in range(5000) %}{% set ns.l = namespace(l=ns.l) %}{% endfor %}{{ ns }}",
            "deep",
        ),
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "steps"),
        ("{% for i in range(1000000000) %}{% endfor %}", "100000"),
        ("{{ range(-9223372036854775807, 9223372036854775807)|length }}", "100000"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deep"),
        ("{% macro m(a=m()) %}{% endmacro %}{{ m() }}", "deep"),
        ("{% macro m(n) %}{% call m(n) %}{{ caller() }}{% endcall %}{% endmacro %}{{ m(1) }}", "deep"),
        (
            "{% macro m(n) %}{% filter trim %}{% set x %}{{ m(n) }}{% endset %}{% endfilter %}{% endmacro %}{{ m(1) }}",
            "deep",
        ),
        ("{% macro m(n) %}{{ {'x': [m(1), (m(2), not 1 < m(3))]} ~ m(4)|trim }}{% endmacro %}{{ m(1) }}", "deep"),
        ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "deep"),
        ("{% block b %}{{ self.b() }}{% endblock %}", "deep"),
        (&parentheses, "deep"),
        (&nested, "deep"),
        (&sum, "deep"),
        (&minus, "deep"),
        (&not, "deep"),
        (&lists, "deep"),
        (&filters, "deep"),
        (&attributes, "deep"),
        (&conditions, "deep"),
        ("{% include '/etc/passwd' %}", "\"include\""),
        ("{% extends 'x' %}", "\"extends\""),
        ("{% import 'x' as y %}", "\"import\""),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ [].append(1) }}", "unsafe"),
        ("{{ 2 ** 10000000 }}", "bits"),
        ("{{ 10 ** 5000 }}", "digits"),
        ("{{ 'x'|indent(100000000000) }}", "text"),
        ("{{ 'x'|center(100000000000) }}{{ 'x'.rjust(100000000000) }}", "text"),
        ("{{ '%100000000000d' % 1 }}", "text"),
        ("{{ '%.100000000000f' % 1 }}", "text"),
        ("{{ '{:.100000000000f}'.format(1) }}", "text"),
        ("{{ '{:100000000000}'.format('x') }}", "text"),
        ("{{ [1]|batch(100000000000, 0)|list }}{{ [1]|slice(100000000000)|list }}", "text"),
        ("{{ [[1]]|tojson(indent=100000000000) }}", "text"),
    ];
    for (source, expected) in cases {
        let shown: String = source.chars().take(150).collect();
        let err = render(source, &user("x")).err().unwrap_or_else(|| panic!("{shown}: was rendered")).to_string();
        assert!(err.contains(expected), "{shown}: {err}");
    }
    // A template's own length is bounded, and so is the conversation.
    assert!(new(&"x".repeat(1 << 20)).is_err());
    assert!(render("x", &user(&"x".repeat(5 << 20))).is_err());
}

#[test]
fn broken_templates_say_where() {
    for (source, expected) in [
        ("{% if x %}", "line 1"),
        ("a\n\n{{ 1 +", "line 3"),
        ("{{ 'abc }}", "string"),
        ("{{ x | frobnicate }}", "\"frobnicate\""),
        ("{{ x is frobnicated }}", "\"frobnicated\""),
        ("{% if messages %}{{ 1|frobnicate }}{% endif %}", "\"frobnicate\""),
        ("a\n{{ nothing.at.all }}", "line 2: 'nothing' is undefined"),
        ("{{ messages[0].content.nothing() }}", "nothing"),
        ("{{ 1 + 'a' }}", "'int' and 'str'"),
        ("{% endif %}", "\"endif\""),
        ("{{ ) }}", ")"),
        ("{{ 1 2 }}", "expected"),
        ("{% set %}", "name"),
        ("{% for x of y %}{% endfor %}", "\"in\""),
        ("{{ 1 / 0 }}", "zero"),
        ("{{ -9223372036854775807 % 0 }}", "zero"),
        ("{# ", "comment"),
        ("{% raw %}", "endraw"),
        ("{{ '\\ud800' }}", "escape"),
        ("{% break %}", "loop"),
        ("{% for x in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "loop"),
        ("{{ '%s' % () }}", "arguments"),
        ("{% macro m(a, a) %}{% endmacro %}", "\"a\""),
        ("{{ dict(a=1, a=2) }}", "\"a\""),
        ("{{ x.0.1.y }}", "'x'"),
        ("{% do 1 %}", "\"do\""),
        ("{% trans %}x{% endtrans %}", "\"trans\""),
        ("{{ [1, 2]|random }}", "random"),
        ("{{ raise_exception }}", "memory"),
        ("{{ 'a'.encode() }}", "bytes"),
    ] {
        let err = render(source, &user("x")).err().unwrap_or_else(|| panic!("{source}: was rendered")).to_string();
        assert!(err.contains(expected), "{source}: {err}");
    }
}

#[test]
fn long_messages_render() {
    for file in ["llama3.jinja", "qwen3.jinja", "gemma3.jinja", "hunyuan.jinja", "smollm2.jinja"] {
        let source = std::fs::read_to_string(golden().join(file)).unwrap();
        let long = "a b\n<|x".repeat(500_000);
        assert!(render(&source, &user(&long)).unwrap().contains(&long));
        let turn = |n: usize| Message::new(if n.is_multiple_of(2) { "user" } else { "assistant" }, "x");
        let many: Vec<Message> = (0..10_000).map(turn).collect();
        render(&source, &many).unwrap();
    }
}

#[test]
fn many_control_tokens_and_many_messages_take_linear_time() {
    let control: Vec<String> = (0..6242).map(|number| format!("<|reserved_special_token_{number}|>")).collect();
    let tokenizer = tokenizer(&control.iter().map(String::as_str).collect::<Vec<_>>());
    let template = new(Preset::ChatMl.source()).unwrap();
    // A letter, then the beginning of control tokens, then whole ones.
    for said in ["x", "<|reserved_special_token_", "<|reserved_special_token_6241|>"] {
        let start = std::time::Instant::now();
        let prompt = template.render(&vec![Message::new("user", said); 1024], true).unwrap();
        let tokens = prompt.encode(&tokenizer).unwrap();
        assert!(tokens.iter().all(|id| !tokenizer.is_control(*id)));
        // Milliseconds; each message tried against each token would be minutes.
        assert!(start.elapsed().as_secs() < 10, "{said}: {:?}", start.elapsed());
    }
}

#[test]
fn mutated_templates_never_panic() {
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(golden().join("expected.json")).unwrap()).unwrap();
    let snippets = cases.iter().filter_map(|case| case["template"].as_str().map(String::from));
    let mut sources: Vec<String> = snippets.collect();
    sources.push(std::fs::read_to_string(golden().join("qwen3.jinja")).unwrap());
    let parts =
        ["{%", "%}", "{{", "}}", "(", ")", "[", "]", "-", "|", "'", "for", " in ", "if ", "1", "~", ".", ":", "é"];
    let messages = [Message::new("user", "a é <x>"), Message::new("assistant", "b")];
    let mut rendered = 0;
    for _ in 0..4000 {
        let mut chars: Vec<char> = sources[next(sources.len())].chars().collect();
        for _ in 0..=next(3) {
            let at = next(chars.len());
            match next(3) {
                0 => drop(chars.remove(at)),
                1 => chars.truncate(chars.len() - next(4).min(chars.len() - 1)),
                _ => drop(chars.splice(at..at, parts[next(parts.len())].chars())),
            }
            chars.push(' ');
        }
        rendered += usize::from(render(&chars.into_iter().collect::<String>(), &messages).is_ok());
    }
    assert!(rendered > 100);
}

#[test]
fn branches_that_are_not_taken_do_not_matter() {
    for (source, expected) in [
        ("{% if tools %}{{ tools|frobnicate(nothing.at.all) }}{% endif %}x", "x"),
        ("{{ 'a' if true else x is frobnicated }}", "a"),
        ("{% if false %}{% include 'x' %}{{ raise_exception('no') }}{{ frobnicate() }}{% endif %}y", "y"),
        ("{% set g = [1]|map('frobnicate') %}z", "z"),
        ("{{ none|selectattr('x')|list }}{{ nothing|map('frobnicate')|list }}", "[][]"),
    ] {
        assert_eq!(render(source, &user("x")).unwrap(), expected, "{source}");
    }
}

#[test]
fn compiling_takes_time_linear_in_the_length() {
    const LENGTH: usize = 250_000;
    let names = |before: &str, behind: &str| {
        let mut text = String::new();
        for number in 0.. {
            let part = format!("{before}{number}{behind}");
            if text.len() + part.len() > LENGTH - 5_000 {
                break;
            }
            text.push_str(&part);
        }
        text
    };
    let around = |open: &str, inside: &str, close: &str| format!("{}{inside}{}", open.repeat(90), close.repeat(90));
    // Quadratic time would be minutes for any of these.
    let start = std::time::Instant::now();
    for source in [
        "a b\n".repeat(LENGTH / 4),
        "{".repeat(LENGTH),
        "{{x}}".repeat(LENGTH / 5),
        "  {% set x = 1 %}".repeat(LENGTH / 16),
        format!("{{#{}", "a#".repeat(LENGTH / 2)),
        format!("{{% raw %}}{}", "{% ".repeat(LENGTH / 4)),
        format!("{{{{ '{}", "\\n".repeat(LENGTH / 4)),
        format!("{{{{ [{}] }}}}", "1,".repeat(LENGTH / 4)),
        format!("{{{{ f({}) }}}}", names("a", "=1,")),
        names("{%if x%}{%set v", "=1%}{%endif%}"),
        names("{%for v", " in x%}{%endfor%}"),
        format!("{{%if x%}}{}{{%endif%}}", names("{%elif v", "%}{%set x=1%}")),
        names("{%set v", "=1%}{%block b%}{%endblock%}").replacen("b%}", "c scoped%}", 1),
        around("{% if x %}", &names("{%set v", "=1%}"), "{% endif %}"),
        around("{% macro m() %}", &names("{{v", "}}"), "{% endmacro %}"),
        around("{% for x in y %}", &names("{{v", "}}"), "{% endfor %}"),
    ] {
        if let Ok(template) = new(&source) {
            let _ = template.render(&user("x"), true);
        }
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
