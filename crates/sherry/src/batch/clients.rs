//! Who has been served how much.

use std::collections::HashMap;
use std::time::Duration;

use super::ClientId;

/// Tokens of the last minute count: what was served earlier is forgotten at this rate.
const MEMORY: Duration = Duration::from_secs(60);
/// When more clients than this are known, those that count for less than a token are forgotten.
const MANY: usize = 1024;

/// Tokens computed for each client, recent ones above all.
#[derive(Debug, Default)]
pub(super) struct Clients {
    served: HashMap<ClientId, (f64, Duration)>,
    /// Clients that were left when some were forgotten last.
    kept: usize,
}

impl Clients {
    /// Notes that `tokens` tokens were computed for a client.
    pub fn serve(&mut self, client: &ClientId, tokens: usize, now: Duration) {
        if self.served.len() > MANY + 2 * self.kept {
            self.served.retain(|_, (tokens, at)| faded(*tokens, *at, now) >= 1.0);
            self.kept = self.served.len();
        }
        let served = self.served(client, now) + tokens as f64;
        self.served.insert(client.clone(), (served, now));
    }

    /// How much a client counts as having been served.
    pub fn served(&self, client: &ClientId, now: Duration) -> f64 {
        self.served.get(client).map_or(0.0, |(tokens, at)| faded(*tokens, *at, now))
    }
}

fn faded(tokens: f64, at: Duration, now: Duration) -> f64 {
    tokens * (-now.saturating_sub(at).as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_served_long_ago_is_forgotten() {
        let mut clients = Clients::default();
        let (a, b) = (ClientId("a".into()), ClientId("b".into()));
        let at = Duration::from_secs;
        clients.serve(&a, 1000, at(0));
        assert_eq!(clients.served(&a, at(0)), 1000.0);
        assert_eq!(clients.served(&b, at(0)), 0.0);
        assert!((clients.served(&a, at(60)) - 1000.0 / std::f64::consts::E).abs() < 1e-9);
        clients.serve(&a, 10, at(600));
        assert!(clients.served(&a, at(600)) < 10.1);
        // A clock that goes backwards does no harm.
        assert!(clients.served(&a, at(0)).is_finite());
        for i in 0..5000 {
            clients.serve(&ClientId(i.to_string().into()), 1, at(1000 + i));
        }
        assert!(clients.served.len() < 2 * MANY);
    }
}
