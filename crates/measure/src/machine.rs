//! Facts about this machine: processors, memory.

use std::fs;
use std::time::Instant;

/// Processors this process may use: affinity and CPU quota counted, hyper-threads too.
pub fn logical_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Total and available memory in bytes, where the system tells.
pub fn memory() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((field("MemTotal:")?, sherry::available_memory()?))
}

/// Resident memory of this process now and at its peak, in bytes.
pub fn resident() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// The processor's name.
pub fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |name| name.trim().to_string())
}

/// Tells how much processor time others take while something runs.
#[derive(Debug)]
pub struct OthersProbe {
    begun: Instant,
    /// Processor seconds of all programs, and of this process.
    seconds: Option<(f64, f64)>,
}

impl OthersProbe {
    /// Begins now.
    pub fn start() -> Self {
        Self { seconds: both_seconds(), begun: Instant::now() }
    }

    /// Cores that other programs have used on average since then; `None` where the system does not tell (it does on Linux), or
    /// for less than a tenth of a second, of which it counts too few ticks.
    pub fn cores(&self) -> Option<f64> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let ((all, own), (all_before, own_before)) = (both_seconds()?, self.seconds?);
        (seconds >= 0.1).then(|| ((all - all_before) - (own - own_before)).max(0.0) / seconds)
    }
}

/// Seconds for which the threads of this process have worked, where the system tells (Linux).
pub fn processor_seconds() -> Option<f64> {
    Some(process_ticks(&fs::read_to_string("/proc/self/stat").ok()?)? as f64 / TICKS_PER_SECOND)
}

/// What Linux counts processor time in towards programs, on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds for which the processors have worked, and those for this process.
fn both_seconds() -> Option<(f64, f64)> {
    let all = system_ticks(&fs::read_to_string("/proc/stat").ok()?)? as f64 / TICKS_PER_SECOND;
    Some((all, processor_seconds()?))
}

fn system_ticks(system: &str) -> Option<u64> {
    let fields: Vec<u64> =
        system.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().map_while(|f| f.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    Some([0, 1, 2, 5, 6].iter().map(|&i| fields.get(i).copied().unwrap_or(0)).sum())
}

fn process_ticks(process: &str) -> Option<u64> {
    // The name of the program stands in brackets and may hold anything; utime and stime are the 12th and 13th field after it.
    let (_, after) = process.rsplit_once(')')?;
    let mut times = after.split_ascii_whitespace().skip(11).map_while(|f| f.parse::<u64>().ok());
    Some(times.next()? + times.next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_the_system_and_of_a_program() {
        let system = "cpu  100 20 30 4000 500 6 7 0 0 0\ncpu0 1 2 3\n";
        let process = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!((system_ticks(system), process_ticks(process)), (Some(163), Some(300)));
        assert_eq!([system_ticks(""), system_ticks("intr 1")], [None, None]);
        assert_eq!([process_ticks(""), process_ticks("12 (a) S 1")], [None, None]);
    }
}
