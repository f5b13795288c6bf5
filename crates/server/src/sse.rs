//! Server-sent events as OpenAI's clients read them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;
use tokio::sync::mpsc;

/// The writing end of a stream of events.
pub struct Events {
    sender: mpsc::Sender<Bytes>,
    ping: Duration,
}

/// The reader went away.
#[derive(Debug)]
pub struct Gone;

struct Receiver(mpsc::Receiver<Bytes>);

impl Stream for Receiver {
    type Item = Result<Bytes, Infallible>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(Ok))
    }
}

/// A response whose body is what is sent through [`Events`]. Its head goes out at once; after silence for the time of `ping`
/// a comment line does.
pub fn channel(ping: Duration) -> (Events, Response) {
    // One event in flight: what comes meanwhile is joined in the mailbox.
    let (sender, receiver) = mpsc::channel(1);
    let headers = [
        // Without the charset Python's requests takes the text for Latin-1 and breaks lines at U+0085.
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (Events { sender, ping }, (StatusCode::OK, headers, Body::from_stream(Receiver(receiver))).into_response())
}

impl Events {
    async fn bytes(&self, bytes: Bytes) -> Result<(), Gone> {
        self.sender.send(bytes).await.map_err(|_| Gone)
    }

    /// One event.
    ///
    /// # Errors
    /// The reader went away.
    pub async fn send(&self, value: &impl Serialize) -> Result<(), Gone> {
        let Ok(json) = serde_json::to_string(value) else { return Err(Gone) };
        self.bytes(Bytes::from(format!("data: {}\n\n", one_line(json)))).await
    }

    /// The last event of a stream that ended well.
    ///
    /// # Errors
    /// The reader went away.
    pub async fn done(&self) -> Result<(), Gone> {
        self.bytes(Bytes::from_static(b"data: [DONE]\n\n")).await
    }

    /// Waits for `work`, sending a comment line whenever nothing else was sent for a while.
    ///
    /// # Errors
    /// The reader went away.
    pub async fn meanwhile<T>(&self, work: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                value = &mut work => return Ok(value),
                () = tokio::time::sleep(self.ping) => self.bytes(Bytes::from_static(b": ping\n\n")).await?,
                () = self.sender.closed() => return Err(Gone),
            }
        }
    }
}

/// Escapes the characters beside LF at which some readers break lines.
fn one_line(json: String) -> String {
    if !json.contains(['\u{85}', '\u{2028}', '\u{2029}']) {
        return json;
    }
    json.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_whole() {
        let json = serde_json::to_string("a\u{85}b\u{2028}c\u{2029}d\ne").unwrap();
        let line = one_line(json);
        assert_eq!(line, r#""a\u0085b\u2028c\u2029d\ne""#);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), "a\u{85}b\u{2028}c\u{2029}d\ne");
    }
}
