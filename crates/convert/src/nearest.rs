//! What a misspelt word was meant to be.

/// The one of `names` that is most like `word`, if its likeness (1: the same) is above `least`.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>, least: f64) -> Option<&'n str> {
    let rated = names.map(|name| (strsim::jaro_winkler(word, name), name));
    rated.filter(|(likeness, _)| *likeness > least).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}
