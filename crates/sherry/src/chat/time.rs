//! The time that templates print.

use std::time::UNIX_EPOCH;

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, tz::TimeZone};

use crate::clock;

/// A local date and time, as `datetime.now()` gives it in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime(DateTime);

/// Longest format for [`LocalTime::format`].
const MAX_FORMAT: usize = 1024;
/// Widest field, in characters.
const MAX_WIDTH: usize = 256;

impl LocalTime {
    /// The time at a wall clock, to the second; `None` if there is no such date or time.
    pub fn new(date: (i16, i8, i8), time: (i8, i8, i8)) -> Option<Self> {
        let (year, month, day) = date;
        let (hour, minute, second) = time;
        DateTime::new(year, month, day, hour, minute, second, 0).ok().map(Self)
    }

    /// The system's time now in the system's time zone; `None` where there is no clock.
    pub fn now() -> Option<Self> {
        let seconds = i64::try_from(clock::since(UNIX_EPOCH)?.as_secs()).ok()?;
        Some(Self(TimeZone::system().to_datetime(Timestamp::from_second(seconds).ok()?)))
    }

    /// Python's `strftime` on Linux, in the C locale. The time has no zone, so `%z` and `%Z` are empty; what is no
    /// directive stays as it is.
    pub(super) fn format(self, format: &str) -> Result<String, String> {
        if format.len() > MAX_FORMAT {
            return Err(format!("strftime_now: a format of more than {MAX_FORMAT} bytes"));
        }
        let mut out = String::new();
        let mut rest = format;
        while let Some(start) = rest.find('%') {
            out.push_str(&rest[..start]);
            let directive = Directive::parse(&rest[start..])?;
            match self.field(directive.letter)? {
                Some(field) => directive.write(&field, &mut out),
                None => out.push_str(&rest[start..start + directive.length]),
            }
            rest = &rest[start + directive.length..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// What a directive stands for; `None` if it is none.
    fn field(self, letter: Option<char>) -> Result<Option<Field>, String> {
        let (date, time) = (self.0.date(), self.0.time());
        let weekday = date.weekday().to_sunday_zero_offset();
        let names = |names: &[&'static str], at: i8| names[usize::try_from(at).unwrap_or(0) % names.len()];
        let (day_name, month_name) = (names(&DAYS, weekday), names(&MONTHS, date.month() - 1));
        let hour12 = (time.hour() + 11) % 12 + 1;
        let two = |number: i8| Field::number(number.into(), 2, '0');
        let blank = |number: i8| Field::number(number.into(), 2, ' ');
        let iso = date.iso_week_date();
        let year = i64::from(date.year());
        let half = if time.hour() < 12 { "AM" } else { "PM" };
        let composed = |format: &str| self.format(format).map(Field::text);
        Ok(Some(match letter {
            Some('a') => Field::text(&day_name[..3]),
            Some('A') => Field::text(day_name),
            Some('b' | 'h') => Field::text(&month_name[..3]),
            Some('B') => Field::text(month_name),
            Some('c') => composed("%a %b %e %H:%M:%S %Y")?,
            Some('C') => Field::number(year.div_euclid(100), 2, '0'),
            Some('d') => two(date.day()),
            Some('D' | 'x') => composed("%m/%d/%y")?,
            Some('e') => blank(date.day()),
            Some('f') => {
                Field::text(format!("{:06}", time.microsecond() as i32 + i32::from(time.millisecond()) * 1000))
            }
            Some('F') => composed("%Y-%m-%d")?,
            Some('g') => Field::number(i64::from(iso.year()).rem_euclid(100), 2, '0'),
            Some('G') => Field::number(iso.year().into(), 1, '0'),
            Some('H') => two(time.hour()),
            Some('I') => two(hour12),
            Some('j') => Field::number(date.day_of_year().into(), 3, '0'),
            Some('k') => blank(time.hour()),
            Some('l') => blank(hour12),
            Some('m') => two(date.month()),
            Some('M') => two(time.minute()),
            Some('n') => Field::text("\n"),
            Some('p') => Field { swapped: true, ..Field::text(half) },
            Some('P') => Field::text(half.to_lowercase()),
            Some('r') => composed("%I:%M:%S %p")?,
            Some('R') => composed("%H:%M")?,
            Some('S') => two(time.second()),
            Some('t') => Field::text("\t"),
            Some('T' | 'X') => composed("%H:%M:%S")?,
            Some('u') => Field::number(date.weekday().to_monday_one_offset().into(), 1, '0'),
            Some('U') => Field::number(week(date, weekday), 2, '0'),
            Some('V') => Field::number(iso.week().into(), 2, '0'),
            Some('w') => Field::number(weekday.into(), 1, '0'),
            Some('W') => Field::number(week(date, (weekday + 6) % 7), 2, '0'),
            Some('y') => Field::number(year.rem_euclid(100), 2, '0'),
            Some('Y') => Field::number(year, 1, '0'),
            Some('z' | 'Z') => Field::text(""),
            Some('%') => Field::text("%"),
            Some('s') => return Err("strftime_now: seconds since 1970 (%s) are not supported".into()),
            _ => return Ok(None),
        }))
    }
}

/// The week of the year, if weeks begin on the day that is so many days ago.
fn week(date: Date, days_ago: i8) -> i64 {
    i64::from((date.day_of_year() + 6 - i16::from(days_ago)) / 7)
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The text of a directive, and how it is filled up.
struct Field {
    text: String,
    width: usize,
    fill: char,
    number: bool,
    /// `#` makes it lower case instead of upper case.
    swapped: bool,
}

impl Field {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), width: 0, fill: ' ', number: false, swapped: false }
    }

    fn number(number: i64, width: usize, fill: char) -> Self {
        Self { text: number.to_string(), width, fill, number: true, swapped: false }
    }
}

/// `%`, flags, a width, a modifier and a letter.
struct Directive {
    flags: String,
    width: Option<usize>,
    letter: Option<char>,
    length: usize,
}

impl Directive {
    fn parse(text: &str) -> Result<Self, String> {
        let behind = &text[1..];
        let flags = &behind[..behind.find(|c| !"_-0^#".contains(c)).unwrap_or(behind.len())];
        let rest = &behind[flags.len()..];
        let digits = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
        let width = match digits {
            "" => None,
            digits => {
                let width = digits.parse().ok().filter(|width| *width <= MAX_WIDTH);
                Some(width.ok_or_else(|| format!("strftime_now: a field wider than {MAX_WIDTH} characters"))?)
            }
        };
        let rest = &rest[digits.len()..];
        let letters = rest.strip_prefix(['E', 'O']).unwrap_or(rest);
        let letter = letters.chars().next();
        let length = text.len() - letters.len() + letter.map_or(0, char::len_utf8);
        Ok(Self { flags: flags.to_owned(), width, letter, length })
    }

    fn write(&self, field: &Field, out: &mut String) {
        let mut text = field.text.clone();
        for flag in self.flags.chars() {
            match flag {
                '^' => text = text.to_uppercase(),
                '#' if field.swapped => text = text.to_lowercase(),
                '#' => text = text.to_uppercase(),
                _ => {}
            }
        }
        let fill = self.flags.chars().rev().find(|flag| "_-0".contains(*flag));
        let width = match (self.width, fill) {
            (Some(width), _) => width,
            (None, Some('-')) => 0,
            (None, _) => field.width,
        };
        let fill = match fill {
            Some('0') => '0',
            Some(_) => ' ',
            None => field.fill,
        };
        let sign = if field.number && text.starts_with('-') { 1 } else { 0 };
        out.push_str(&text[..sign]);
        out.extend(std::iter::repeat_n(fill, width.saturating_sub(text.chars().count())));
        out.push_str(&text[sign..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_in_python() {
        let time = |date, time| LocalTime::new(date, time).unwrap();
        let july = time((2024, 7, 6), (5, 3, 9));
        let night = time((2021, 1, 3), (0, 0, 0));
        let format = |time: LocalTime, format: &str| time.format(format).unwrap();
        assert_eq!(format(july, "%d %b %Y, %-d %B, %m %%"), "06 Jul 2024, 6 July, 07 %");
        assert_eq!(format(july, "%A %a %j %U %W %V %G %u %w %y %C"), "Saturday Sat 188 26 27 27 2024 6 6 24 20");
        assert_eq!(
            format(july, "%H:%M:%S %I %p %P %e %k %l|%c|%x|%X"),
            "05:03:09 05 AM am  6  5  5|Sat Jul  6 05:03:09 2024|07/06/24|05:03:09"
        );
        assert_eq!(
            format(july, "%F %T %R %D %r %f%z%Z|%n%t|"),
            "2024-07-06 05:03:09 05:03 07/06/24 05:03:09 AM 000000|\n\t|"
        );
        assert_eq!(format(july, "%_d %05d %^a %#p %-I %-5d %5a %Q %"), " 6 00006 SAT am 5     6   Sat %Q %");
        assert_eq!(format(night, "%I %p %U %W %V %G %j %w"), "12 AM 01 00 53 2020 003 0");
        assert!(july.format("%s").is_err() && july.format("%999d").is_err());
        assert_eq!(LocalTime::new((2023, 2, 29), (0, 0, 0)), None);
    }
}
