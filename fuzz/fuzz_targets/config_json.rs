//! Any bytes as config.json: an error, or a configuration and packing scheme within their bounds.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sherry::io::json;
use sherry::io::native::PackedScheme;
use sherry::model::config_hf;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("config.json");
    let Ok(value) = json::parse(path, data) else { return };
    assert_eq!(serde_json::from_slice::<serde_json::Value>(data).ok().as_ref(), Some(&value));
    if let Ok(Some(scheme)) = PackedScheme::from_config(path, &value) {
        let config = scheme.add_to_config(&value);
        assert_eq!(PackedScheme::from_config(path, &config).ok(), Some(Some(scheme)));
    }
    if let Ok(config) = config_hf::parse(path, &value) {
        config.parameters();
    }
});
