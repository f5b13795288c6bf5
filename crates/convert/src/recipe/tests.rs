use sherry::model::Family;
use sherry::model::names::Part;
use sherry::model::synthetic::tiny;

use super::*;

/// What reading `tensors` (the text of a JSON object) gives for `config`.
fn read(config: &ArchConfig, tensors: &str) -> Result<Recipe> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.json");
    std::fs::write(&path, format!("{{\"sherry_recipe\": 1, \"tensors\": {tensors}}}")).unwrap();
    Recipe::read(&path, config)
}

/// A recipe of patterns that is whole, with `more` entries.
fn with(config: &ArchConfig, more: &str) -> Result<Recipe> {
    let head = if config.tied { "" } else { "\"lm_head.weight\": \"q8_0\"," };
    read(
        config,
        &format!(
            "{{\"model.embed_tokens\": \"q8_0\", {head}
            \"model.layers.*.self_attn.q_proj\": \"sherry\", \"model.layers.*.self_attn.k_proj.weight\": \"ternary-1.67\",
            \"blk.*.attn_v\": \"Q8_0\", \"model.layers.*.self_attn.o_proj\": \"f16\",
            \"model.layers.*.mlp.gate_proj\": \"sherry-1.25\", \"model.layers.*.mlp.up_proj\": \"sherry-1.25\",
            \"model.layers.*.mlp.down_proj\": \"sherry-1.25\"{more}}}"
        ),
    )
}

#[test]
fn names_patterns_and_types_are_understood() {
    for family in [Family::Llama, Family::Qwen3, Family::Gemma3] {
        for tied in [false, true] {
            let config = ArchConfig { tied, ..tiny(family) };
            let recipe = with(&config, ", \"model.layers.1.mlp.down_proj.weight\": \"q4_0\"").unwrap();
            let ty = |layer, part| recipe.get(Role::Layer(layer, part)).unwrap().to_string();
            assert_eq!([ty(0, Part::Q), ty(1, Part::K), ty(0, Part::V)], ["sherry-1.25", "ternary-1.67", "q8_0"]);
            assert_eq!([ty(0, Part::Down), ty(1, Part::Down)], ["sherry-1.25", "q4_0"], "a name goes before a pattern");
            assert_eq!(recipe.get(Role::Head).is_some(), !tied);
            assert_eq!(recipe.get(Role::OutputNorm), None);
            // What is written is read again.
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("again.json");
            let mut written = recipe.clone();
            written.write(&path, &config, json!({"why": 1}), false).unwrap();
            written.write(&path, &config, json!({"why": 1}), false).unwrap();
            let problem = written.write(&path, &config, json!({"why": 2}), false).unwrap_err().to_string();
            assert!(problem.contains("again.json") && problem.contains("--force"), "{problem}");
            written.write(&path, &config, json!({"why": 2}), true).unwrap();
            assert_eq!(Recipe::read(&path, &config).unwrap(), written);
            assert_eq!(written.to_json(&config), recipe.to_json(&config));
        }
    }
}

#[test]
fn every_type_has_one_name() {
    for ty in MatrixType::ALL {
        assert_eq!(MatrixType::parse(&ty.to_string()), Some(ty));
        assert_eq!(MatrixType::parse(&ty.to_string().to_uppercase()), Some(ty));
    }
    let bytes = MatrixType::ALL.map(|ty| ty.bytes(1, 768, Container::Folder).unwrap());
    assert!(bytes.is_sorted(), "{bytes:?}");
}

#[test]
fn what_is_wrong_is_named_with_the_file_and_the_tensor() {
    let config = ArchConfig { tied: true, ..tiny(Family::Llama) };
    let cases = [
        (
            ", \"model.layers.0.mlp.upp_proj\": \"q8_0\"",
            "model.layers.0.mlp.upp_proj",
            "did you mean 'model.layers.0.mlp.up_proj",
        ),
        (", \"model.layers.2.mlp.up_proj\": \"q8_0\"", "layers.2.mlp.up_proj", "has 2 blocks"),
        (", \"model.layers.1.mlp.up_proj\": \"q8\"", "layers.1.mlp.up_proj", "no type 'q8' (did you mean 'q8_0'?)"),
        (", \"model.layers.1.mlp.up_proj\": \"q3_k\"", "layers.1.mlp.up_proj", "known are sherry-1.25, ternary-1.67"),
        (", \"model.layers.1.mlp.up_proj\": 4", "layers.1.mlp.up_proj", "expected the name of a type"),
        (", \"lm_head.weight\": \"q8_0\"", "lm_head.weight", "its embedding"),
        (", \"model.norm.weight\": \"q8_0\"", "model.norm.weight", "no matrix"),
        (", \"model.layers.*.input_layernorm\": \"q8_0\"", "input_layernorm", "no matrix"),
        (", \"blk.*.ffn_up\": \"q8_0\"", "blk.*.ffn_up", "layers.0.mlp.up_proj.weight has a type by two patterns"),
        (", \"token_embd\": \"q8_0\"", "model.embed_tokens.weight has a type by two names", "'token_embd'"),
        (", \"model.layers.*.mlp.*\": \"q8_0\"", "model.layers.*.mlp.*", "no such tensor"),
        (", \"blk.0.ffn_up\": \"f32\", \"blk.0.ffn_up\": \"f32\"", "ffn_up", "appears twice"),
    ];
    for (more, place, problem) in cases {
        let error = with(&config, more).unwrap_err().to_string();
        assert!(error.contains("mine.json") && error.contains(place) && error.contains(problem), "{more}: {error}");
    }
    let error = with(&config, "").map(|_| ());
    assert!(error.is_ok());
    let untied = ArchConfig { tied: false, ..config.clone() };
    let error = read(&untied, "{\"model.embed_tokens\": \"q8_0\"}").unwrap_err().to_string();
    assert!(error.contains("layers.0.self_attn.q_proj.weight': is missing"), "{error}");
    let error = read(&config, "{\"model.embed_tokens\": \"sherry\"}").unwrap_err().to_string();
    assert!(error.contains("embedding and head cannot be sherry-1.25; they can be sq3_0, q4_0"), "{error}");
    let error = read(&config, "{\"model.embed_tokens\": \"q2_0\"}").unwrap_err().to_string();
    assert!(error.contains("cannot be q2_0"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.json");
    for (text, problem) in [
        ("{\"tensors\": {}}", "sherry_recipe"),
        ("{\"sherry_recipe\": 2, \"tensors\": {}}", "recipes of version 1"),
        ("{\"sherry_recipe\": 1}", "field 'tensors': missing"),
        ("{\"sherry_recipe\": 1, \"tensor\": {}, \"tensors\": {}}", "no such field (did you mean 'tensors'?)"),
        ("{\"sherry_recipe\": 1, \"tensors\": []}", "tensors"),
        ("[]", "object"),
        ("nothing", "not valid JSON"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Recipe::read(&path, &config).unwrap_err().to_string();
        assert!(error.contains("mine.json") && error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn what_a_container_cannot_hold_is_refused_with_what_it_can() {
    let config = tiny(Family::Llama);
    let recipe = with(&config, ", \"model.layers.1.mlp.down_proj\": \"q4_0\"").unwrap();
    let error = recipe.check(&config, Container::Folder).unwrap_err().to_string();
    for part in
        ["mine.json", "layers.1.mlp.down_proj.weight", "cannot be q4_0 in a native folder", "rows of 56", "sherry-1.25"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("q8_0"), "{error}");
    let recipe = with(&config, "").unwrap();
    recipe.check(&config, Container::Folder).unwrap();
    let error = recipe.check(&config, Container::Gguf).unwrap_err().to_string();
    assert!(
        error.contains("cannot be sherry-1.25 in a GGUF file") && error.contains("STQ1_0 blocks hold 256"),
        "{error}"
    );
}
