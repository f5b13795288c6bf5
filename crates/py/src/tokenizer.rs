//! Text to token ids and back, conversations to prompts.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Map, Value};
use sherry::chat::{ChatTemplate, Conversation, Prompt};

use crate::json;
use crate::parts::token_ids;
use crate::work::detached;

/// A conversation that was given.
pub struct Given {
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    variables: Option<Map<String, Value>>,
}

/// Reads a conversation from Python's values.
pub fn conversation(
    messages: &Bound<'_, PyAny>,
    tools: Option<&Bound<'_, PyAny>>,
    documents: Option<&Bound<'_, PyAny>>,
    variables: Option<&Bound<'_, PyAny>>,
) -> PyResult<Given> {
    Ok(Given {
        messages: json::from_python(messages, "messages")?,
        tools: tools.map(|tools| json::from_python(tools, "tools")).transpose()?,
        documents: documents.map(|documents| json::from_python(documents, "documents")).transpose()?,
        variables: variables.map(|variables| json::from_python(variables, "chat_template_kwargs")).transpose()?,
    })
}

impl Given {
    /// The prompt that the model's template makes of it.
    pub fn render(
        &self,
        tokenizer: &sherry::Tokenizer,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> sherry::Result<Prompt> {
        ChatTemplate::for_tokenizer(tokenizer)?.render_conversation(&Conversation {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            add_generation_prompt,
            continue_final_message,
            variables: self.variables.as_ref(),
        })
    }
}

/// A model's tokenizer.
#[pyclass(frozen, module = "sherry")]
pub struct Tokenizer {
    tokenizer: Arc<sherry::Tokenizer>,
    end: Arc<[u32]>,
}

impl Tokenizer {
    pub fn new(tokenizer: Arc<sherry::Tokenizer>, end: Arc<[u32]>) -> Self {
        Self { tokenizer, end }
    }
}

#[pymethods]
impl Tokenizer {
    /// Token ids of a text. `add_special`: with the tokens that the model expects around a text; `parse_special`: control
    /// tokens written in the text count as such.
    #[pyo3(signature = (text, *, add_special = true, parse_special = false))]
    fn encode(&self, py: Python<'_>, text: &str, add_special: bool, parse_special: bool) -> PyResult<Vec<u32>> {
        detached(py, || Ok(self.tokenizer.encode(text, add_special, parse_special)?))
    }

    /// The text of token ids; control tokens are left out unless `skip_special` is false.
    #[pyo3(signature = (ids, *, skip_special = true))]
    fn decode(&self, ids: &Bound<'_, PyAny>, skip_special: bool) -> PyResult<String> {
        Ok(self.tokenizer.decode(&token_ids(ids)?, !skip_special))
    }

    /// The prompt that the model's chat template makes of a conversation: token ids, or text if `tokenize` is false.
    /// Control tokens in what the messages say stay text, so prefer ids to text.
    #[pyo3(signature = (
        messages, *, tools = None, documents = None, chat_template_kwargs = None, add_generation_prompt = true,
        continue_final_message = false, tokenize = true
    ))]
    #[allow(clippy::too_many_arguments)] // they are keyword arguments
    fn apply_chat_template<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        tools: Option<&Bound<'py, PyAny>>,
        documents: Option<&Bound<'py, PyAny>>,
        chat_template_kwargs: Option<&Bound<'py, PyAny>>,
        add_generation_prompt: bool,
        continue_final_message: bool,
        tokenize: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        if continue_final_message && add_generation_prompt {
            return Err(PyValueError::new_err("continue_final_message needs add_generation_prompt=False"));
        }
        let given = conversation(messages, tools, documents, chat_template_kwargs)?;
        let (prompt, ids) = detached(py, || {
            let prompt = given.render(&self.tokenizer, add_generation_prompt, continue_final_message)?;
            let ids = tokenize.then(|| prompt.encode(&self.tokenizer)).transpose()?;
            Ok((prompt, ids))
        })?;
        match ids {
            Some(ids) => Ok(ids.into_pyobject(py)?.into_any()),
            None => Ok(prompt.text.into_pyobject(py)?.into_any()),
        }
    }

    /// The text that the vocabulary writes for a token ("Ġthe"), None where there is none.
    fn id_to_token(&self, id: u32) -> Option<&str> {
        self.tokenizer.id_to_token(id)
    }

    /// The id of a token by the text that the vocabulary writes for it.
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Number of ids. The model may have more logits than that.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// Begin of text.
    #[getter]
    fn bos_id(&self) -> Option<u32> {
        self.tokenizer.bos()
    }

    /// All tokens that end an answer.
    #[getter]
    fn eos_ids(&self) -> Vec<u32> {
        self.end.to_vec()
    }

    /// The chat template that came with the model.
    #[getter]
    fn chat_template(&self) -> Option<&str> {
        self.tokenizer.chat_template()
    }

    fn __len__(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn __repr__(&self) -> String {
        format!("<sherry.Tokenizer: {} tokens>", self.tokenizer.vocab_size())
    }
}
