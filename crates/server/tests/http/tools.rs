//! Tools: what the model is told of them, what it must or may call, and the way back.

use serde_json::{Value, json};

use crate::client::Reply;
use crate::fixture::{Server, TOOLS};

fn server() -> Server {
    Server::start_with(Some(TOOLS), |_| {})
}

/// Two tools whose arguments are short.
fn tools() -> Value {
    let tool = |name: &str, key: &str, values: Value| {
        json!({"type": "function", "function": {
            "name": name,
            "description": "What it does",
            "strict": true,
            "parameters": {
                "type": "object",
                "properties": {key: {"enum": values}},
                "required": [key],
                "additionalProperties": false,
            },
        }})
    };
    let mut tools = json!([tool("light", "on", json!([true, false])), tool("pick", "n", json!([1, 2]))]);
    // As programs that make schemas out of types write them.
    let parameters = &mut tools[1]["function"]["parameters"];
    parameters["$defs"] = json!({"N": parameters["properties"]["n"].take()});
    parameters["properties"]["n"] = json!({"$ref": "#/$defs/N"});
    tools
}

fn ask(server: &Server, fields: Value) -> Reply {
    let mut body = json!({"messages": [{"role": "user", "content": "x"}], "tools": tools(), "max_tokens": 200});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.post("/v1/chat/completions", &body.to_string())
}

/// Names and arguments of the calls of a message, which are what the tools ask for.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for call in message["tool_calls"].as_array().unwrap() {
        assert!(call["id"].as_str().unwrap().starts_with("call_") && call["type"] == "function", "{call}");
        let name = call["function"]["name"].as_str().unwrap().to_owned();
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        match name.as_str() {
            "light" => assert!(arguments["on"].is_boolean(), "{arguments}"),
            "pick" => assert!(arguments["n"] == 1 || arguments["n"] == 2, "{arguments}"),
            other => panic!("no tool {other}"),
        }
        assert_eq!(arguments.as_object().unwrap().len(), 1);
        found.push((name, arguments));
    }
    found
}

#[test]
fn calls_that_are_forced_are_made_whole_and_streamed() {
    let server = server();
    let named = json!({"type": "function", "function": {"name": "pick"}});
    for seed in 0..4 {
        for (choice, parallel) in [(json!("required"), true), (json!("required"), false), (named.clone(), true)] {
            let sampling =
                json!({"tool_choice": choice, "parallel_tool_calls": parallel, "temperature": 1, "seed": seed});
            let reply = ask(&server, sampling.clone());
            assert_eq!(reply.status, 200, "{}", reply.body);
            let whole = reply.json()["choices"][0].clone();
            let made = calls(&whole["message"]);
            if whole["finish_reason"] != "length" {
                assert_eq!(
                    (&whole["finish_reason"], &whole["message"]["content"]),
                    (&json!("tool_calls"), &Value::Null)
                );
            }
            assert!(!made.is_empty() && (parallel || made.len() == 1));
            assert!(choice == "required" || (made.len() == 1 && made[0].0 == "pick"));

            let mut streamed = sampling;
            streamed["stream"] = json!(true);
            let events = ask(&server, streamed).events();
            let deltas = events.iter().filter_map(|event| event["choices"][0].get("delta"));
            let mut again = Vec::new();
            for delta in deltas.filter(|delta| delta.get("tool_calls").is_some()) {
                let [call] = &delta["tool_calls"].as_array().unwrap()[..] else { panic!("{delta}") };
                assert_eq!(call["index"], again.len());
                again.extend(calls(delta));
            }
            assert_eq!(again, made);
            assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], whole["finish_reason"]);
        }
    }
}

#[test]
fn families_write_calls_in_their_own_way() {
    let llama = "{% for t in tools or [] %}{'name': {{ t.function.name }}, \"parameters\": ...}{% endfor %}\
        {% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
    let hunyuan = "{% for t in tools or [] %}{{ t.function.name }}: <tool_calls>[...]</tool_calls>{% endfor %}\
        {% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
    let server = Server::start_with(Some(llama), |_| {});
    let lists = Server::start_with(Some(hunyuan), |_| {});
    let named = json!({"type": "function", "function": {"name": "light"}});
    let cases = [(json!("required"), false), (named.clone(), false), (named, true)];
    for (server, (choice, stream)) in
        [&server, &lists].into_iter().flat_map(|server| cases.clone().map(|case| (server, case)))
    {
        let reply = ask(server, json!({"tool_choice": choice, "stream": stream, "parallel_tool_calls": false}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let message = match stream {
            false => reply.json()["choices"][0]["message"].clone(),
            true => {
                let mut deltas = reply.events().into_iter().map(|event| event["choices"][0]["delta"].clone());
                deltas.find(|delta| delta.get("tool_calls").is_some()).unwrap()
            }
        };
        assert_eq!(calls(&message).len(), 1);
    }
    let written = json!({"guided_regex": r#"\{"name": "pick", "parameters": \{"n": 2\}\}"#});
    let message = ask(&server, written).json()["choices"][0]["message"].clone();
    assert_eq!((calls(&message), &message["content"]), (vec![("pick".into(), json!({"n": 2}))], &Value::Null));
    let call = r#"\{"name": "pick", "arguments": \{"n": 2\}\}"#;
    let written = json!({"guided_regex": format!(r"<tool_calls>\[{call}, {call}\]</tool_calls>")});
    let message = ask(&lists, written).json()["choices"][0]["message"].clone();
    assert_eq!(calls(&message), vec![("pick".into(), json!({"n": 2})); 2]);
}

#[test]
fn what_the_model_writes_becomes_text_and_calls() {
    let server = server();
    let call = |n: u32| format!("<tool_call>\\{{\"name\": \"pick\", \"arguments\": \\{{\"n\": {n}\\}}\\}}</tool_call>");
    let written = json!({"guided_regex": format!("I see\\. {}\n{}", call(1), call(2))});
    let with = |fields: Value| {
        let mut all = written.clone();
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        ask(&server, all)
    };
    let choice = with(json!({})).json()["choices"][0].clone();
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("I see. "), &json!("tool_calls")));
    assert_eq!(calls(&choice["message"]), [("pick".into(), json!({"n": 1})), ("pick".into(), json!({"n": 2}))]);
    let ids: Vec<_> = choice["message"]["tool_calls"].as_array().unwrap().iter().map(|call| &call["id"]).collect();
    assert_ne!(ids[0], ids[1]);

    let events = with(json!({"stream": true})).events();
    let deltas: Vec<&Value> = events.iter().filter_map(|event| event["choices"][0].get("delta")).collect();
    let said: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    let made: Vec<Value> =
        deltas.iter().flat_map(|delta| delta["tool_calls"].as_array().cloned().unwrap_or_default()).collect();
    assert_eq!((said.as_str(), made.len()), ("I see. ", 2));
    assert_eq!((&made[0]["index"], &made[1]["index"]), (&json!(0), &json!(1)));

    // One call where one is allowed; none where none are.
    let one = with(json!({"parallel_tool_calls": false})).json()["choices"][0]["message"].clone();
    assert_eq!(calls(&one).len(), 1);
    let none = with(json!({"tool_choice": "none"})).json()["choices"][0].clone();
    assert!(none["message"].get("tool_calls").is_none() && none["finish_reason"] == "stop", "{none}");
    assert!(none["message"]["content"].as_str().unwrap().contains("</tool_call>"));
}

#[test]
fn templates_see_tools_calls_and_their_results() {
    let server = server();
    let answer =
        ask(&server, json!({"tool_choice": "required", "parallel_tool_calls": false})).json()["choices"][0].clone();
    let message = answer["message"].clone();
    let (name, arguments) = calls(&message)[0].clone();
    let id = message["tool_calls"][0]["id"].clone();
    let messages = json!([
        {"role": "user", "content": "x"},
        message,
        {"role": "tool", "tool_call_id": id, "name": name, "content": "done"},
    ]);
    let mut body = json!({"messages": messages, "tools": tools(), "chat_template_kwargs": {"full": true}});
    let prompt = server.post("/apply-template", &body.to_string());
    assert_eq!(prompt.status, 200, "{}", prompt.body);
    let arguments = match arguments {
        Value::Object(fields) => fields.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect::<String>(),
        other => panic!("{other}"),
    };
    let expected = format!(
        "{{\"type\": \"function\", \"function\": {{\"name\": \"light\", \"description\": \"What it does\", \"parameters\": \
         {{\"type\": \"object\", \"properties\": {{\"on\": {{\"enum\": [true, false]}}}}, \"required\": [\"on\"], \
         \"additionalProperties\": false}}}}}}\n\
         {{\"type\": \"function\", \"function\": {{\"name\": \"pick\", \"description\": \"What it does\", \"parameters\": \
         {{\"type\": \"object\", \"properties\": {{\"n\": {{\"$ref\": \"#/$defs/N\"}}}}, \"required\": [\"n\"], \
         \"additionalProperties\": false, \"$defs\": {{\"N\": {{\"enum\": [1, 2]}}}}}}}}}}\n\
         <tool_call>\n[user] x\n[assistant] <tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{{arguments}}}}}\n</tool_call>\n\
         [tool {name}] done for {}\n[assistant] ",
        id.as_str().unwrap()
    );
    assert_eq!(prompt.json()["prompt"], Value::from(expected));
    // The conversation goes on.
    body["chat_template_kwargs"] = json!({"full": false});
    body["max_tokens"] = json!(4);
    let counted = server.post("/tokenize", &body.to_string()).json();
    let used = server.post("/v1/chat/completions", &body.to_string()).json();
    assert_eq!(counted["count"], used["usage"]["prompt_tokens"]);
}

#[test]
fn templates_that_put_arguments_between_texts_get_them_as_text() {
    let joined = "{% for m in messages %}[{{ m.role }}]{% for c in m.tool_calls %}{{ c.function.name + ' ' + \
        c.function.arguments }}{% endfor %}{% endfor %}";
    let server = Server::start_with(Some(joined), |_| {});
    let call = |arguments: Value| json!({"id": "c", "function": {"name": "f", "arguments": arguments}});
    for arguments in [json!({"x": [1, "é"]}), json!("{\"x\": [1, \"é\"]}")] {
        let messages =
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call(arguments)]}]);
        let prompt = server.post("/apply-template", &json!({"messages": messages}).to_string());
        assert_eq!(prompt.json()["prompt"], "[user][assistant]f {\"x\":[1,\"é\"]}");
    }
}

#[test]
fn variables_and_unfinished_messages_reach_the_template() {
    let server = server();
    let prompt = |fields: Value| {
        let mut body =
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "I th"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        server.post("/apply-template", &body.to_string())
    };
    let start = "[user] x\n[assistant] I th";
    assert_eq!(prompt(json!({})).json()["prompt"], format!("{start}\n[assistant] "));
    assert_eq!(prompt(json!({"continue_final_message": true})).json()["prompt"], start);
    let thinking = |on: bool| prompt(json!({"chat_template_kwargs": {"enable_thinking": on}})).json()["prompt"].clone();
    assert_eq!(thinking(true), format!("{start}\n[assistant] <think>"));
    assert_eq!(thinking(false), format!("{start}\n[assistant] "));
    let own = prompt(json!({"chat_template_kwargs": {"messages": []}}));
    assert_eq!((own.status, own.error("param").as_str()), (400, "chat_template_kwargs.messages"));
    let body = json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "I th"}],
                      "continue_final_message": true, "chat_template_kwargs": {"enable_thinking": true}, "max_tokens": 4});
    let reply = server.post("/v1/chat/completions", &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[test]
fn control_tokens_stay_text_wherever_they_come_from() {
    let server = server();
    let end =
        server.post("/tokenize", r#"{"content": "<|im_end|>", "add_special_tokens": false}"#).json()["tokens"].clone();
    let [end] = &end.as_array().unwrap()[..] else { panic!("{end}") };
    let text = "<|im_end|>";
    let mut tools = tools();
    tools[0]["function"]["description"] = json!(text);
    tools[1]["function"]["parameters"]["$defs"]["N"]["description"] = json!(text);
    let call = json!({"id": text, "function": {"name": text, "arguments": {text: text}}});
    let body = json!({
        "messages": [
            {"role": "user", "name": text, "content": format!("<|im_start|>{text}<|im_")},
            {"role": "assistant", "content": "end|>", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": text, "content": text},
        ],
        "tools": tools,
        "chat_template_kwargs": {"enable_thinking": text, "full": true},
    });
    let reply = server.post("/tokenize", &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(!reply.json()["tokens"].as_array().unwrap().contains(end));
}

#[test]
fn calls_of_the_wrong_form_are_named() {
    let server = server();
    let call = |arguments: Value| json!({"id": "c", "function": {"name": "f", "arguments": arguments}});
    for (messages, param) in [
        (json!([{"role": "user", "content": "x", "tool_calls": [call(json!({}))]}]), "messages[0].tool_calls"),
        (
            json!([{"role": "assistant", "tool_calls": [call(json!("{"))]}]),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [call(json!("5"))]}]),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [call(json!([]))]}]),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!([{"role": "assistant", "tool_calls": [{"id": "c"}]}]), "messages[0].tool_calls[0].function"),
        (json!([{"role": "assistant", "tool_calls": []}]), "messages[0].content"),
        (json!([{"role": "tool", "tool_call_id": "c"}]), "messages[0].content"),
    ] {
        let reply = server.post("/v1/chat/completions", &json!({"messages": messages}).to_string());
        assert_eq!((reply.status, reply.error("param").as_str()), (400, param), "{messages} {}", reply.body);
    }
    for (fields, param) in [
        (json!({"tools": vec![tools()[0].clone(); 129]}), "tools"),
        (json!({"tools": 5}), "tools"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "nothing"}}}), "tool_choice"),
        (json!({"tool_choice": "always"}), "tool_choice"),
        (json!({"tool_choice": "required", "guided_regex": "a"}), "response_format"),
    ] {
        let reply = ask(&server, fields.clone());
        assert_eq!((reply.status, reply.error("param").as_str()), (400, param), "{fields} {}", reply.body);
    }
    // A template that knows no tools.
    let plain = Server::start(|_| {});
    assert_eq!(ask(&plain, json!({})).error("code"), "tools_not_supported");
    assert_eq!(ask(&plain, json!({"tool_choice": "none", "max_tokens": 2})).status, 200);
    let history =
        json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call(json!({}))]}]});
    assert_eq!(plain.post("/v1/chat/completions", &history.to_string()).error("param"), "messages[1].tool_calls");
}
