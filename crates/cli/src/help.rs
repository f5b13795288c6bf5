//! What `--help` and `--help-all` show: the command line as it is parsed, with what only few need left out.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command, CommandFactory as _, Error, FromArgMatches as _};

use crate::Cli;

/// Help is for windows of this width.
const WIDTH: usize = 80;
/// Options under this heading are shown by `--help-all` only, apart from one.
const RARE: &str = "Performance";
/// That one.
const THREADS: &str = "threads";
/// The same of a command whose method has many constants: beginnings of their names.
const CONSTANTS: (&str, [&str; 7]) =
    ("calibrate", ["reconstruct", "adapt", "tune_", "train_", "damping", "sweeps", "column_fits"]);

/// Parses the arguments of this process, the program's name first.
///
/// # Errors
/// Help, the version, or what is wrong with them.
pub fn parse(arguments: &[OsString]) -> Result<Cli, Error> {
    let mut command = if arguments.iter().any(|argument| argument == "--help-all") { all() } else { usual() };
    let matches: ArgMatches = command.try_get_matches_from_mut(arguments).map_err(|error| advise(error, arguments))?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Adds what those type who know `-m MODEL` from llama.cpp.
fn advise(mut error: Error, arguments: &[OsString]) -> Error {
    let is_model =
        |value: &ContextValue| matches!(value, ContextValue::String(name) if name == "-m" || name == "--model");
    if error.kind() == ErrorKind::UnknownArgument && error.get(ContextKind::InvalidArg).is_some_and(is_model) {
        let command = arguments.get(1).map_or("run".into(), |name| name.to_string_lossy());
        let tip = format!("the model is named without an option: sherry {command} MODEL");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The command line with all options visible.
pub fn all() -> Command {
    each(Cli::command().max_term_width(WIDTH))
}

/// The command line with those hidden that only few need.
fn usual() -> Command {
    let mut command = all();
    for name in names(&command) {
        command = command.mut_subcommand(&name, |command| {
            command.mut_args(|argument| {
                let rare = is_rare(&name, &argument);
                argument.hide(rare)
            })
        });
    }
    command
}

fn names(command: &Command) -> Vec<String> {
    command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

fn is_rare(command: &str, argument: &Arg) -> bool {
    let name = argument.get_id().as_str();
    let is_constant = command == CONSTANTS.0 && CONSTANTS.1.iter().any(|beginning| name.starts_with(beginning));
    is_constant || argument.get_help_heading() == Some(RARE) && name != THREADS
}

/// What holds for the options of every command: a negative number is a value, so that an error can name what it was given
/// to.
fn each(mut command: Command) -> Command {
    for name in names(&command) {
        command = command.mut_subcommand(name, |command| {
            command.mut_args(|argument| {
                let takes_value = !argument.is_positional() && argument.get_action().takes_values();
                if takes_value { argument.allow_negative_numbers(true) } else { argument }
            })
        });
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with its helps, short and long.
    fn helps(mut command: Command) -> Vec<(String, Vec<String>)> {
        command.build();
        let mut all = vec![command.clone()];
        all.extend(command.get_subcommands().cloned());
        let shown = |mut command: Command| {
            let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
            (command.get_name().to_owned(), vec![short, long])
        };
        all.into_iter().map(shown).collect()
    }

    #[test]
    fn help_fits_a_window_of_80_columns() {
        for command in [usual(), all()] {
            for (name, helps) in helps(command) {
                for line in helps.iter().flat_map(|help| help.lines()) {
                    assert!(line.chars().count() <= WIDTH, "{name}: {line}");
                }
            }
        }
    }

    /// A line that is wrapped by the program is text; a command, and what it does, must be lines of their own.
    #[test]
    fn examples_are_not_wrapped() {
        for command in all().get_subcommands() {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{}: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn rare_options_are_shown_when_all_are_asked_for() {
        let (usual, all) = (helps(usual()), helps(all()));
        let mut hidden = 0;
        for ((name, usual), (_, all)) in usual.iter().zip(&all).filter(|((name, _), _)| name != "help") {
            assert!(usual.iter().chain(all).all(|help| help.contains("--help-all")), "{name}");
            for option in ["--isa", "--precision", "--kv ", "--head ", "--no-mmap", "--sweeps"] {
                let shown = all.iter().all(|help| help.contains(option));
                hidden += usize::from(shown && name != "bench");
                assert!(name == "bench" || usual.iter().all(|help| !help.contains(option)), "{name} {option}");
            }
        }
        // run, serve, demo, compare and eval have all five; calibrate has the last.
        assert!(hidden >= 26, "{hidden}");
    }

    #[test]
    fn the_definition_is_sound() {
        all().debug_assert();
        usual().debug_assert();
    }
}
