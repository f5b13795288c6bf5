//! Data sets with short names: texts to train and to measure on.

/// A data set of the hub.
pub struct Corpus {
    pub name: &'static str,
    /// Repository on the hub.
    pub dataset: &'static str,
    /// Configuration within it; all where it has one only.
    pub config: Option<&'static str>,
}

/// Those that are known by name; the column of the text is `text` in all of them.
pub const CORPORA: &[Corpus] = &[
    Corpus { name: "tinyshakespeare", dataset: "karpathy/tiny_shakespeare", config: None },
    Corpus { name: "tinystories", dataset: "roneneldan/TinyStories", config: None },
    Corpus { name: "wikitext-2", dataset: "Salesforce/wikitext", config: Some("wikitext-2-raw-v1") },
    Corpus { name: "wikitext-103", dataset: "Salesforce/wikitext", config: Some("wikitext-103-raw-v1") },
];

impl Corpus {
    /// The one called `name`; upper and lower case and `-` and `_` are alike.
    pub fn find(name: &str) -> Option<&'static Self> {
        let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        CORPORA.iter().find(|corpus| corpus.name == plain(name))
    }
}
