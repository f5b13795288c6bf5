//! An answer as it appears.

use anyhow::Result;
use sherry::{Event, Progress as _};

use crate::output::wrap::{self, Wrapper};
use crate::output::{Console, Stdout, printable};

/// Shows the events of one answer: how far the prompt is read, then the text.
pub struct Show<'c> {
    console: &'c Console,
    /// On a terminal.
    wrapper: Option<Wrapper>,
    /// Prompt tokens that were read, while they are.
    read: Option<usize>,
}

impl<'c> Show<'c> {
    /// `wraps`: on a terminal, whose width is asked for.
    pub fn new(wraps: bool, console: &'c Console) -> Self {
        Self { console, wrapper: wraps.then(|| Wrapper::new(wrap::window())), read: None }
    }

    pub fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Prompt { done, total } => {
                let before = self.read.unwrap_or_else(|| {
                    self.console.start("reading", *total as u64);
                    0
                });
                self.console.advance(done.saturating_sub(before) as u64);
                self.read = Some(*done);
            }
            Event::Text(text) => {
                self.end_of_prompt();
                let mut out = Stdout::lock();
                match &mut self.wrapper {
                    Some(wrapper) => out.answer(&wrapper.push(&printable::answer(text)))?,
                    None => out.answer(text)?,
                }
            }
        }
        Ok(())
    }

    /// Shows what was held back, and ends the line.
    pub fn finish(mut self) -> Result<()> {
        self.end_of_prompt();
        let rest = self.wrapper.as_mut().map(Wrapper::finish).unwrap_or_default();
        let mut out = Stdout::lock();
        out.answer(&rest)?;
        out.answer("\n")?;
        Ok(())
    }

    fn end_of_prompt(&mut self) {
        if self.read.take().is_some() {
            self.console.finish();
        }
    }
}
