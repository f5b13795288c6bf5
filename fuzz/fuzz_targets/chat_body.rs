#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sherry_fuzzing::chat_body(data));
