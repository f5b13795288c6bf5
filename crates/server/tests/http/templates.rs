//! Templates of models that object, never end, or write without end.

use crate::fixture::Server;

const BODY: &str = r#"{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}"#;

#[test]
fn templates_end_within_their_budget() {
    for (template, said) in [
        ("{{ raise_exception('Conversation roles must alternate') }}", "roles must alternate"),
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", ""),
        ("{% for a in range(99999) %}{{ messages[0].content * 100000 }}{% endfor %}", ""),
        ("{{ 'x' * 1000000000 }}", ""),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", ""),
        ("{{ messages[5].content.nothing.at_all }}", ""),
        ("{{ 1 / 0 }}", ""),
        ("{% set ns = namespace(a=[0]) %}{% for i in range(64) %}{% set ns.a = ns.a + ns.a %}{% endfor %}", ""),
    ] {
        let server = Server::start_with(Some(template), |_| {});
        let well = server.check();
        for path in ["/v1/chat/completions", "/apply-template", "/tokenize"] {
            let reply = server.post(path, BODY);
            assert_eq!(
                (reply.status, reply.error("code").as_str()),
                (400, "template_error"),
                "{template}: {}",
                reply.body
            );
            assert!(reply.error("message").contains(said) && reply.body.len() < 4096, "{template}: {}", reply.body);
        }
        server.is_well(&well);
    }
}
