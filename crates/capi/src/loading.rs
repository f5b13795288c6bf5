//! Models that are not paths: their files are given, or read by the caller a range at a time.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sherry::Tokenizer;
use sherry::io::{FileData, ModelFiles, PulledFile, RangeRead};
use sherry::model::{Checkpoint, Loading};
use sherry_kernels::{Bytes, Engine};

use crate::failure::{Failure, Outcome, Status, guard, number};
use crate::model::{Loaded, Options, SherryModel, SherryOptions};
use crate::pointers::{Structure, fill, give, handle, place, take, text, values};

/// `sherry_part`. Its size stands first, although an array of them is given: every one says it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SherryPart {
    size: u32,
    name: *const c_char,
    name_len: usize,
    data: *const c_void,
    len: usize,
}

// SAFETY: numbers and pointers, the first of them `size`.
unsafe impl Structure for SherryPart {
    const NAME: &'static str = "sherry_part";
}

/// `sherry_request`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SherryRequest {
    size: u32,
    part: u32,
    offset: u64,
    data: *mut c_void,
    len: usize,
    done: u64,
    total: u64,
}

// SAFETY: numbers and a pointer, the first of them `size`.
unsafe impl Structure for SherryRequest {
    const NAME: &'static str = "sherry_request";
}

/// `sherry_loading`.
pub struct SherryLoading(Mutex<State>);

struct State {
    files: ModelFiles,
    /// Those of which ranges have to be asked for, with their places among the parts.
    pulled: Vec<(u32, Arc<PulledFile>)>,
    /// What the caller is filling.
    pending: Option<Pending>,
    options: Options,
    engine: Engine,
    checkpoint: Option<Checkpoint>,
    tokenizer: Option<Arc<Tokenizer>>,
    loading: Loading,
    done: u64,
    total: u64,
}

struct Pending {
    file: Arc<PulledFile>,
    start: usize,
    buffer: Vec<u8>,
}

/// What an attempt to go on came to.
enum Progress {
    /// A step is done.
    More,
    /// The model is complete.
    Complete,
}

impl State {
    /// Goes on until bytes are missing, which a request is for, or the model is complete.
    fn next(&mut self) -> Outcome<Option<SherryRequest>> {
        if let Some(Pending { file, start, buffer }) = self.pending.take() {
            self.done = self.done.saturating_add(buffer.len() as u64);
            file.give(start, buffer.into());
        }
        loop {
            let attempt = self.step();
            // Whether it failed or only noted that a file could not be read: it is tried again with what was missing.
            let missing = self.pulled.iter().find_map(|(part, file)| Some((*part, Arc::clone(file), file.missing()?)));
            match (missing, attempt) {
                (Some((part, file, range)), _) => return self.ask(part, file, range).map(Some),
                (None, Ok(Progress::More)) => self.pulled.iter().for_each(|(_, file)| file.release(0..file.len())),
                (None, Ok(Progress::Complete)) => return Ok(None),
                (None, Err(failure)) => return Err(failure),
            }
        }
    }

    fn step(&mut self) -> Outcome<Progress> {
        let missing = |state: &Self| state.pulled.iter().any(|(_, file)| file.is_missing());
        let Some(checkpoint) = &self.checkpoint else {
            let checkpoint = Checkpoint::from_files(self.files.clone())?;
            if !missing(self) {
                self.checkpoint = Some(checkpoint);
            }
            return Ok(Progress::More);
        };
        if self.tokenizer.is_none() {
            let tokenizer = checkpoint.tokenizer()?;
            if !missing(self) {
                self.tokenizer = Some(Arc::new(tokenizer));
            }
            return Ok(Progress::More);
        }
        for name in self.loading.wanted(checkpoint) {
            checkpoint.source().data(name)?;
        }
        let more = self.loading.step(checkpoint, self.engine.pool())?;
        Ok(if more { Progress::More } else { Progress::Complete })
    }

    fn ask(&mut self, part: u32, file: Arc<PulledFile>, range: Range<usize>) -> Outcome<SherryRequest> {
        let (start, len) = (range.start, range.len());
        let mut buffer = Vec::new();
        if buffer.try_reserve_exact(len).is_err() {
            let message = format!("not enough memory for {len} bytes of part {part}");
            return Err(Failure { status: Status::Memory, message });
        }
        buffer.resize(len, 0);
        let data = buffer.as_mut_ptr().cast();
        self.pending = Some(Pending { file, start, buffer });
        // What is read twice (headers) is no progress.
        let done = self.done.min(self.total);
        Ok(SherryRequest { size: 0, part, offset: start as u64, data, len, done, total: self.total })
    }

    fn finish(self) -> Outcome<Loaded> {
        let Self { checkpoint, tokenizer, loading, options, .. } = self;
        let incomplete = || Failure::invalid("the model is not complete: sherry_load_next has not returned 0");
        let (checkpoint, tokenizer) = checkpoint.zip(tokenizer).ok_or_else(incomplete)?;
        let model = loading.finish(&checkpoint).ok_or_else(incomplete)?;
        Ok(Loaded::new(&checkpoint, tokenizer, model, options))
    }
}

/// Begins to load a model from parts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_load_begin(
    parts: *const SherryPart,
    count: usize,
    options: *const SherryOptions,
    out: *mut *mut SherryLoading,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promises about pointers.
        let (given, options) = unsafe {
            place(out)?;
            (values(parts, count, "parts")?, Options::read(options)?)
        };
        if given.is_empty() {
            return Err(Failure::invalid("a model has at least one part"));
        }
        let mut parts = BTreeMap::new();
        let mut pulled = Vec::new();
        let mut total = 0u64;
        for (index, part) in (0u32..).zip(given) {
            if part.size as usize != size_of::<SherryPart>() {
                let expected = size_of::<SherryPart>();
                return Err(Failure::invalid(format!("sherry_part.size is {}; expected {expected}", part.size)));
            }
            // SAFETY: the caller's promises about pointers, which hold for the fields of a part as well.
            let name = unsafe { text(part.name, part.name_len, "name of a part") }?;
            if name.is_empty() {
                return Err(Failure::invalid(format!("part {index} has no name")));
            }
            let data = if part.data.is_null() {
                let file = Arc::new(PulledFile::new(part.len));
                pulled.push((index, Arc::clone(&file)));
                total = total.saturating_add(part.len as u64);
                FileData::Ranges(file)
            } else {
                // SAFETY: the same promises.
                let bytes = unsafe { values(part.data.cast::<u8>(), part.len, name) }?;
                FileData::from(Bytes::from(bytes.to_vec()))
            };
            if parts.insert(name.to_owned(), data).is_some() {
                return Err(Failure::invalid(format!("two parts are called '{name}'")));
            }
        }
        let state = State {
            files: ModelFiles::Parts { name: "".into(), parts },
            pulled,
            pending: None,
            engine: options.engine(),
            options,
            checkpoint: None,
            tokenizer: None,
            loading: Loading::default(),
            done: 0,
            total,
        };
        // SAFETY: `place` has checked it.
        unsafe { give(out, SherryLoading(Mutex::new(state))) };
        Ok(())
    })
}

/// Goes on: 1 when bytes are wanted, 0 when the model is complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_load_next(loading: *mut SherryLoading, request: *mut SherryRequest) -> i32 {
    number(|| {
        // SAFETY: the caller's promise about handles.
        let loading = unsafe { handle(loading, "loading") }?;
        let mut state = loading.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.next()? {
            Some(found) => {
                // SAFETY: the caller's promise about structures.
                unsafe { fill(request, found) }?;
                Ok(1)
            }
            None => Ok(0),
        }
    })
}

/// Ends loading, with a model where there is a place for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_load_end(loading: *mut SherryLoading, out: *mut *mut SherryModel) -> Status {
    guard(|| {
        // SAFETY: the caller's promise about handles.
        let loading = unsafe { take(loading) };
        if out.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise about pointers.
        unsafe { place(out) }?;
        let loading = loading.ok_or_else(|| Failure::invalid("loading: the handle is null"))?;
        let loaded = loading.0.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
        // SAFETY: `place` has checked it.
        unsafe { give(out, SherryModel(Arc::new(loaded))) };
        Ok(())
    })
}
