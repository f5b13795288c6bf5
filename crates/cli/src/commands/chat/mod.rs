//! A conversation on a terminal.
//!
//! | room | what |
//! |---|---|
//! | [`command`], [`settings`] | what is typed: messages, commands, `/set` |
//! | [`input`], [`terminal`] | the line editor, history, the terminal's mode |
//! | [`show`] | answers as they appear, words wrapped at the window |
//! | [`room`] | a context that is full |
//! | [`saved`] | conversations as files |

mod command;
mod input;
mod room;
mod saved;
mod settings;
mod show;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use sherry::batch::Finish;
use sherry::{Generated, Message};

use self::command::{COMMANDS, KEYS, Typed, typed};
pub use self::input::history_file;
use self::input::{Input, Line};
pub use self::room::way_out;
use self::settings::Settings;
pub use self::show::Show;
use crate::commands::Context;
use crate::commands::speaker::Speaker;
use crate::output::{Stdout, message, wrap};
use crate::{builtin, interrupt};

/// What the user asked for besides the model.
pub struct Options {
    /// What the user calls the model.
    pub model: String,
    /// Whether it is the one inside this program.
    pub is_builtin: bool,
    /// Tokens that the model was made for.
    pub trained_context: usize,
    /// Statistics after every answer.
    pub verbose: bool,
    /// When the context is full, turns at the beginning that stay; `None`: ask.
    pub keep: Option<usize>,
    /// Where messages are remembered.
    pub history: Option<PathBuf>,
}

/// A conversation.
struct Session<'c> {
    speaker: Speaker,
    options: Options,
    settings: Settings,
    input: Input,
    context: &'c Context,
    /// The last answer.
    last: Option<Generated>,
    /// What was continued last, by a model that has no conversations.
    last_text: Option<String>,
    /// What the next prompt offers for editing.
    draft: String,
}

/// Talks until the user leaves.
pub fn converse(speaker: Speaker, options: Options, context: &Context) -> Result<ExitCode> {
    let input = Input::open(options.history.clone(), &context.console)?;
    let settings = Settings { generate: speaker.options().clone(), verbose: options.verbose, keep: options.keep };
    let (last, last_text, draft) = (None, None, String::new());
    let mut session = Session { speaker, options, settings, input, context, last, last_text, draft };
    session.greet();
    session.run()?;
    Ok(ExitCode::SUCCESS)
}

impl Session<'_> {
    fn greet(&self) {
        self.note("");
        if self.speaker.chat().is_some() {
            self.note("Type a message. /help lists the commands; Ctrl-C stops an answer, Ctrl-D or /bye leaves.");
        } else {
            if self.options.is_builtin {
                self.note(&format!(
                    "{} is a very small model (4 million weights of 1.25 bits) that came with this program. It tells \
                     stories: it neither answers questions nor holds conversations. `sherry models` lists models that do.",
                    builtin::NAME
                ));
            } else {
                self.note(&format!(
                    "{} continues texts, without a chat template: it goes on from what you type.",
                    self.options.model
                ));
            }
            self.note(
                "Type the beginning of a story, for example: Once upon a time\n\
                 /help lists the commands; Ctrl-C stops a text, Ctrl-D or /bye leaves.",
            );
        }
        self.note("");
    }

    fn run(&mut self) -> Result<()> {
        // Whether the last that happened was Ctrl-C.
        let mut interrupted = false;
        loop {
            let draft = std::mem::take(&mut self.draft);
            let line = match self.input.read("> ", &draft)? {
                Line::Text(line) => line,
                Line::Interrupted { empty: true } if interrupted => return Ok(()),
                Line::Interrupted { .. } => {
                    interrupted = true;
                    self.note("(Ctrl-C at the empty prompt leaves; so do Ctrl-D and /bye)");
                    continue;
                }
                Line::End => {
                    if !self.input.is_edited() {
                        message("");
                    }
                    return Ok(());
                }
            };
            interrupted = false;
            let said = typed(&line);
            if said == Typed::Nothing {
                continue;
            }
            self.input.remember(&line);
            match said {
                Typed::Nothing => {}
                Typed::Command("/bye", _) => return Ok(()),
                Typed::Command(name, arguments) => {
                    if let Err(error) = self.command(name, arguments) {
                        crate::report(&error);
                    }
                    self.note("");
                }
                Typed::Unknown(word, nearest) => {
                    let hint = nearest.map_or(String::new(), |near| format!(" Did you mean {near}?"));
                    self.tell(&format!(
                        "There is no command {word}.{hint} /help lists the commands; a message that begins with a slash needs \
                         a blank before it."
                    ));
                    self.note("");
                }
                Typed::Message(text) => {
                    // A conversation goes on after an answer that failed: the template may object.
                    if let Err(error) = self.say(text) {
                        crate::report(&self.options.with_way_out(error, self.speaker.llm().context()));
                    }
                    interrupted = interrupt::requested();
                    self.note("");
                }
            }
            if Stdout::is_closed() {
                return Ok(());
            }
        }
    }

    /// Says `text` and shows the answer.
    fn say(&mut self, text: &str) -> Result<()> {
        if !self.make_room(text)? {
            self.draft = text.to_owned();
            return Ok(());
        }
        interrupt::clear();
        let mut show = Show::new(self.input.is_edited(), &self.context.console);
        let hidden = self.input.is_edited().then(terminal::Hidden::begin);
        let answered = self.speaker.answer(text, |event| show.event(&event));
        drop(hidden);
        show.finish()?;
        let generated = answered?;
        if self.speaker.chat().is_none() {
            self.last_text = Some(text.to_owned());
        }
        match generated.finish {
            None if Stdout::is_closed() => {}
            None => {
                if generated.text.is_empty()
                    && let Some(chat) = self.speaker.chat_mut()
                {
                    chat.take_back(); // a turn without an answer would confuse templates
                }
                self.note("(stopped; Ctrl-C at the empty prompt leaves)");
            }
            Some(Finish::ContextFull) => {
                let full = self.context_full();
                self.note(&format!("(cut off: {full})"));
            }
            Some(Finish::Length) => {
                self.note(&format!("(cut off after {} tokens: /set max-tokens)", generated.tokens.len()));
            }
            Some(Finish::Stop) => {}
        }
        if self.settings.verbose {
            self.tell(&format!("({})", self.speaker.statistics(&generated)));
        }
        self.last = Some(generated);
        Ok(())
    }

    fn command(&mut self, name: &str, arguments: &str) -> Result<()> {
        match name {
            "/help" => self.help(),
            "/set" if arguments.is_empty() => {
                self.settings.list().iter().for_each(|line| message(line));
                self.tell(&format!(
                    "  {:<15} {:<12} tokens; --ctx-size when the program starts",
                    "ctx-size",
                    self.speaker.llm().context()
                ));
            }
            "/set" => {
                let lines = self.settings.set(arguments).map_err(anyhow::Error::msg)?;
                *self.speaker.options_mut() = self.settings.generate.clone();
                lines.iter().for_each(|line| self.tell(line));
            }
            "/stats" => self.stats(),
            "/regenerate" => self.regenerate()?,
            "/clear" => {
                self.last = None;
                self.last_text = None;
                if let Some(chat) = self.speaker.chat_mut() {
                    chat.clear();
                }
                self.tell("The conversation is forgotten.");
            }
            "/system" => self.system(arguments),
            "/save" => self.save(arguments)?,
            "/load" => self.load(arguments)?,
            _ => unreachable!("every command of the list is handled"),
        }
        Ok(())
    }

    fn help(&self) {
        for command in COMMANDS {
            let usage = format!("{} {}", command.name, command.arguments);
            message(&format!("  {usage:<22}{}", command.what));
        }
        message("");
        self.tell(&KEYS.replace('\n', " "));
    }

    fn stats(&self) {
        let Some(last) = &self.last else { return self.tell("No answer yet.") };
        let s = &last.statistics;
        self.tell(&self.speaker.statistics(last));
        self.tell(&format!(
            "context {} of {} tokens in use",
            s.prompt_tokens + s.generated_tokens,
            self.speaker.llm().context()
        ));
    }

    fn regenerate(&mut self) -> Result<()> {
        let again = match self.speaker.chat_mut() {
            Some(chat) => chat.take_back(),
            None => self.last_text.clone(),
        };
        let Some(text) = again else {
            self.tell("There is nothing to answer again yet.");
            return Ok(());
        };
        let mut params = self.settings.params();
        if params.temperature == 0.0 {
            self.note("(temp is 0: with the same instructions and settings the answer stays the same)");
        }
        params.seed = params.seed.wrapping_add(1);
        self.settings.generate.sampling = Some(params);
        *self.speaker.options_mut() = self.settings.generate.clone();
        self.say(&text)
    }

    fn system(&mut self, text: &str) {
        let Some(chat) = self.speaker.chat_mut() else {
            return self.tell("This model continues texts; instructions need a model with a chat template.");
        };
        if text.is_empty() {
            let found = chat.messages().first().filter(|message| message.role == "system");
            let shown = found.map_or("No instructions are set.".to_owned(), |message| message.content.clone());
            return self.tell(&shown);
        }
        if text == "none" {
            chat.set_system(None);
            self.tell("The instructions are removed.");
        } else {
            chat.set_system(Some(text));
            self.tell("The instructions are set; they hold from the next answer on.");
        }
    }

    fn save(&mut self, name: &str) -> Result<()> {
        let Some(chat) = self.speaker.chat() else {
            self.tell("This model continues single texts; there is no conversation to save.");
            return Ok(());
        };
        if name.is_empty() {
            self.tell("Into which file? /save FILE");
            return Ok(());
        }
        let messages = chat.messages().to_vec();
        if messages.is_empty() {
            self.tell("Nothing has been said yet.");
            return Ok(());
        }
        let path = saved::path_of(name);
        let replace = path.exists();
        if replace && !self.input.ask(&format!("{name} exists. Replace it?"), false)? {
            return Ok(());
        }
        saved::save(&path, &self.options.model, &messages, replace)?;
        self.tell(&format!("{} messages saved in {name}.", messages.len()));
        Ok(())
    }

    fn load(&mut self, name: &str) -> Result<()> {
        if name.is_empty() {
            self.tell("From which file? /load FILE");
            return Ok(());
        }
        let Some(chat) = self.speaker.chat_mut() else {
            self.tell("This model continues single texts; a conversation needs a model with a chat template.");
            return Ok(());
        };
        let messages = saved::load(&saved::path_of(name))?;
        chat.set_messages(messages.clone());
        self.last = None;
        self.tell(&format!("{} messages loaded from {name}.", messages.len()));
        let last = messages.iter().rposition(|message| message.role == "user").unwrap_or(messages.len());
        for Message { role, content } in &messages[last..] {
            self.tell("");
            self.tell(&if role == "user" { format!("> {content}") } else { content.clone() });
        }
        Ok(())
    }

    /// A remark, wrapped; nothing when quiet.
    fn note(&self, text: &str) {
        self.lines(text, |line| self.context.console.say(line));
    }

    /// What was asked for, wrapped.
    fn tell(&self, text: &str) {
        self.lines(text, message);
    }

    fn lines(&self, text: &str, show: impl Fn(&str)) {
        let text = wrap::wrapped(&crate::output::printable::answer(text), self.width());
        if text.is_empty() { show("") } else { text.lines().for_each(show) }
    }

    fn width(&self) -> usize {
        if self.input.is_edited() { wrap::window() } else { usize::MAX }
    }
}
