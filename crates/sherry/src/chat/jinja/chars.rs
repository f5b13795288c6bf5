//! Characters as Python sees them, where Rust's own methods mean something else.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, ClassUnicode, HirKind};

/// A Unicode class by its name in regular expressions.
fn class(name: &str) -> ClassUnicode {
    match regex_syntax::parse(name).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => class,
        _ => unreachable!("the class {name} is built in"),
    }
}

static LETTER: LazyLock<ClassUnicode> = LazyLock::new(|| class(r"\p{L}"));
static DECIMAL: LazyLock<ClassUnicode> = LazyLock::new(|| class(r"\p{Nd}"));
static TITLE: LazyLock<ClassUnicode> = LazyLock::new(|| class(r"\p{Lt}"));
static NAME_START: LazyLock<ClassUnicode> = LazyLock::new(|| class(r"\p{XID_Start}"));
static NAME: LazyLock<ClassUnicode> = LazyLock::new(|| class(r"\p{XID_Continue}"));

/// Where in the class `c` stands: the first character of its range.
fn range_start(class: &ClassUnicode, c: char) -> Option<char> {
    let ranges = class.ranges();
    let at = ranges.partition_point(|range| range.end() < c);
    ranges.get(at).map(regex_syntax::hir::ClassUnicodeRange::start).filter(|start| *start <= c)
}

/// Digits that are not decimal digits: superscripts, circled and the like.
const OTHER_DIGITS: [(u32, u32); 20] = [
    (0xb2, 0xb3),
    (0xb9, 0xb9),
    (0x1369, 0x1371),
    (0x19da, 0x19da),
    (0x2070, 0x2070),
    (0x2074, 0x2079),
    (0x2080, 0x2089),
    (0x2460, 0x2468),
    (0x2474, 0x247c),
    (0x2488, 0x2490),
    (0x24ea, 0x24ea),
    (0x24f5, 0x24fd),
    (0x24ff, 0x24ff),
    (0x2776, 0x277e),
    (0x2780, 0x2788),
    (0x278a, 0x2792),
    (0x10a40, 0x10a43),
    (0x10e60, 0x10e68),
    (0x11052, 0x1105a),
    (0x1f100, 0x1f10a),
];

/// Ideographs that are numbers.
const NUMBER_IDEOGRAPHS: &str = "\
    㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬\
    貮貳贰阡陆陌陸零\u{f96b}\u{f973}\u{f978}\u{f9b2}\u{f9d1}\u{f9d3}\u{f9fd}\u{20001}\u{20064}\u{200e2}\
    \u{20121}\u{2092a}\u{20983}\u{2098c}\u{2099c}\u{20aea}\u{20afd}\u{20b19}\u{22390}\u{22998}\u{23b1b}\
    \u{2626d}\u{2f890}";

pub(super) fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | '\x1c'..='\x1f') || c.is_whitespace()
}

pub(super) fn is_letter(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { range_start(&LETTER, c).is_some() }
}

/// The value of a decimal digit of any script.
pub(super) fn decimal(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    // Decimal digits stand in runs of ten.
    range_start(&DECIMAL, c).map(|start| (c as u32 - start as u32) % 10)
}

pub(super) fn is_digit(c: char) -> bool {
    decimal(c).is_some() || OTHER_DIGITS.iter().any(|(low, high)| (*low..=*high).contains(&(c as u32)))
}

pub(super) fn is_numeric(c: char) -> bool {
    c.is_numeric() || (!c.is_ascii() && NUMBER_IDEOGRAPHS.contains(c))
}

pub(super) fn is_alphanumeric(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphanumeric() } else { is_letter(c) || is_numeric(c) }
}

/// `\w` of Python's regular expressions.
pub(super) fn is_word(c: char) -> bool {
    c == '_' || is_alphanumeric(c)
}

pub(super) fn is_title(c: char) -> bool {
    !c.is_ascii() && range_start(&TITLE, c).is_some()
}

pub(super) fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

/// Whether `repr` shows the character itself.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    // Rust escapes the same characters when debugging; behind another character it leaves combining marks alone.
    let mut text = String::from("a");
    text.push(c);
    text.escape_debug().count() == 2
}

pub(super) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    let starts = |c: char| c == '_' || range_start(&NAME_START, c).is_some();
    chars.next().is_some_and(starts) && chars.all(|c| range_start(&NAME, c).is_some())
}

/// What the lexer takes for a name: letters, digits, and what may follow them in an identifier.
pub(super) fn is_name_part(c: char) -> bool {
    is_word(c) || (!c.is_ascii() && range_start(&NAME, c).is_some())
}

/// Title case of a character: one to three characters.
pub(super) fn titlecase(c: char) -> String {
    let same = |c: char| c.to_string();
    let shifted = |by: u32| char::from_u32(c as u32 + by).map(same).unwrap_or_default();
    match c {
        'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' => same(c),
        'Ǆ' | 'ǆ' => same('ǅ'),
        'Ǉ' | 'ǉ' => same('ǈ'),
        'Ǌ' | 'ǌ' => same('ǋ'),
        'Ǳ' | 'ǳ' => same('ǲ'),
        // Georgian capitals are for whole words only.
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' => same(c),
        // Greek with iota subscript.
        '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' => same(c),
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => shifted(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => shifted(9),
        '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}' => same(c),
        '\u{1fb2}' => "\u{1fba}\u{345}".into(),
        '\u{1fb4}' => "\u{386}\u{345}".into(),
        '\u{1fb7}' => "\u{391}\u{342}\u{345}".into(),
        '\u{1fc2}' => "\u{1fca}\u{345}".into(),
        '\u{1fc4}' => "\u{389}\u{345}".into(),
        '\u{1fc7}' => "\u{397}\u{342}\u{345}".into(),
        '\u{1ff2}' => "\u{1ffa}\u{345}".into(),
        '\u{1ff4}' => "\u{38f}\u{345}".into(),
        '\u{1ff7}' => "\u{3a9}\u{342}\u{345}".into(),
        // Ligatures: only their first letter becomes large.
        'ß' | '\u{587}' | '\u{fb00}'..='\u{fb06}' | '\u{fb13}'..='\u{fb17}' => {
            let mut upper = c.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
        _ => c.to_uppercase().collect(),
    }
}

/// Case folding: one to three characters.
pub(super) fn casefold(c: char) -> String {
    match c {
        'ı' => c.to_string(),
        'ẞ' => "ss".into(),
        // Cherokee folds to capitals, which are older.
        '\u{13a0}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => c.to_uppercase().collect(),
        _ => c.to_uppercase().flat_map(char::to_lowercase).collect(),
    }
}
