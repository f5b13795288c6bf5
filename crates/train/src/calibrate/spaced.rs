//! Text with a blank around every punctuation mark, as corpora of natural-language processing have it.
//!
//! WikiText, the Penn Treebank and many others are written so, by programs that cut text into words (the Moses tokenizer with
//! `-a`): `a well-known man, 3.5 feet tall.` becomes ` a well @-@ known man , 3 @.@ 5 feet tall . `. Tokens such as ` ,` occur
//! in hardly any other text, and a model of few bits that has never met them in calibration gives them up.

/// Words that a period belongs to.
const ABBREVIATIONS: [&str; 20] = [
    "Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Jr", "Sr", "Gen", "Col", "Lt", "Capt", "Sgt", "Rev", "Hon", "vs", "No",
    "Vol", "Fig", "pp",
];

/// Marks that always stand alone.
const MARKS: &str = "\"',;:!?()[]{}%$/–—";

/// `text` with blanks around punctuation marks, and at both ends of every line that is not empty.
///
/// ```
/// use sherry_train::calibrate::spaced::spaced;
///
/// let text = "Dr. Hall's plan (of 1912), a well-known one, cost $3.5 million.\n\n“Why?” he asked.";
/// let expected = " Dr. Hall 's plan ( of 1912 ) , a well @-@ known one , cost $ 3 @.@ 5 million . \n\n \" Why ? \" he asked . ";
/// assert_eq!(spaced(text), expected);
/// ```
pub fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let mut words = line.split_whitespace().peekable();
        if words.peek().is_some() {
            out.push(' ');
        }
        for word in words {
            add_word(&mut out, word);
            end_token(&mut out);
        }
    }
    out
}

/// Adds the tokens of a word with blanks between them; `out` ends with a blank.
fn add_word(out: &mut String, word: &str) {
    let (mut before, mut alone) = (None, [0; 4]);
    let mut token = out.len();
    let mut rest = word.chars();
    while let Some(c) = rest.next() {
        let c = match c {
            '“' | '”' => '"',
            '‘' | '’' => '\'',
            c => c,
        };
        let after = rest.clone().next();
        let within = |is: fn(char) -> bool| before.is_some_and(is) && after.is_some_and(is);
        let mark = match c {
            '-' if within(char::is_alphanumeric) => Some("@-@"),
            ',' if within(|c| c.is_ascii_digit()) => Some("@,@"),
            '.' if within(|c| c.is_ascii_digit()) => Some("@.@"),
            '-' if after == Some('-') => {
                rest.next();
                Some("—")
            }
            // Of "it's" it begins the second token; elsewhere it is a quotation mark.
            '\'' if within(char::is_alphanumeric) => {
                end_token(out);
                token = out.len();
                None
            }
            '.' if after != Some('.') && before != Some('.') && ends_sentence(&out[token..], rest.as_str()) => {
                Some(".")
            }
            '…' => Some("..."),
            c if MARKS.contains(c) => Some(&*c.encode_utf8(&mut alone)),
            _ => None,
        };
        if let Some(mark) = mark {
            end_token(out);
            out.push_str(mark);
            end_token(out);
            token = out.len();
        } else {
            out.push(c);
        }
        before = Some(c);
    }
}

/// Whether a period after `token` is a mark of its own: no letter of an abbreviation, and nothing but closing marks after it.
fn ends_sentence(token: &str, rest: &str) -> bool {
    let closing = |c: char| !c.is_alphanumeric();
    let initial = token.len() == 1 && token.starts_with(|c: char| c.is_ascii_uppercase());
    rest.chars().all(closing) && !initial && !token.contains('.') && !ABBREVIATIONS.contains(&token)
}

/// A blank, unless there is one.
fn end_token(out: &mut String) {
    if !out.ends_with(' ') {
        out.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn marks_stand_alone_and_numbers_are_cut() {
        for (text, expected) in [
            ("", ""),
            ("one\n\ntwo", " one \n\n two "),
            ("1,000,000 of 2,5 and 3.14.", " 1 @,@ 000 @,@ 000 of 2 @,@ 5 and 3 @.@ 14 . "),
            ("mother-in-law -x- a--b", " mother @-@ in @-@ law -x- a — b "),
            ("the U.S. and J. R. Smith, Jr. (b. 1900).", " the U.S. and J. R. Smith , Jr. ( b . 1900 ) . "),
            ("don't; the actors' \"end.\"", " don 't ; the actors ' \" end . \" "),
            ("wait... 50% [of/or] it…", " wait... 50 % [ of / or ] it ... "),
            ("Größe, ‘é’:ok", " Größe , ' é ' : ok "),
        ] {
            assert_eq!(spaced(text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_but_blanks_and_marks_of_cuts_is_added() {
        let mut rng = Rng::new(5, 0);
        let alphabet: Vec<char> = "aB9 .,'-\"()\n\té$/;".chars().collect();
        for _ in 0..2000 {
            let text: String = (0..rng.below(30)).map(|_| alphabet[rng.below(alphabet.len())]).collect();
            let out = spaced(&text);
            // Cut marks undone, both have the same characters.
            let plain = out.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".").replace('—', "--");
            let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(bare(&plain), bare(&text), "{text:?}");
            assert_eq!(out.matches('\n').count(), text.matches('\n').count());
            assert!(!out.contains("  "), "{out:?}");
        }
    }
}
