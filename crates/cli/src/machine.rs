//! Facts about this machine: processors, memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Processors this process may use: affinity and CPU quota counted, hyper-threads too.
pub fn logical_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Physical cores among the usable processors: a second hyper-thread adds nothing to memory-bound work.
pub fn physical_cores() -> usize {
    CpuLimits::found().threads()
}

/// What bounds the number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuLimits {
    /// Physical cores of the machine, where the system tells.
    pub cores: Option<usize>,
    /// Processors this process may use: affinity and CPU quota counted, hyper-threads too.
    pub logical: usize,
    /// Processors that the affinity mask allows, where the system tells.
    pub affinity: Option<usize>,
    /// Processors' worth of time that the control group grants, where it is limited.
    pub quota: Option<f64>,
}

impl CpuLimits {
    /// Those of this process.
    pub fn found() -> Self {
        let mut cores = BTreeSet::new();
        for cpu in 0..4096 {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            match fs::read_to_string(path) {
                Ok(siblings) => cores.insert(siblings),
                Err(_) => break,
            };
        }
        let affinity = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            count_cpus(list.trim())
        });
        let cores = Some(cores.len()).filter(|&cores| cores > 0);
        Self { cores, logical: logical_cpus(), affinity, quota: quota() }
    }

    /// Threads to use when nobody asks: the physical cores, as far as they may be used.
    pub fn threads(&self) -> usize {
        self.cores.map_or(self.logical, |cores| cores.min(self.logical))
    }

    /// Which of the limits decides.
    pub fn reason(&self) -> &'static str {
        let threads = self.threads();
        if self.cores == Some(threads) {
            "physical cores"
        } else if self.quota.is_some_and(|quota| quota.floor().max(1.0) as usize == threads) {
            "the CPU quota of the control group"
        } else if self.affinity == Some(threads) {
            "the affinity mask of the process"
        } else {
            "the processors that the system grants"
        }
    }
}

/// The length of a list like "0-3,8".
fn count_cpus(list: &str) -> Option<usize> {
    let count = |part: &str| match part.split_once('-') {
        Some((first, last)) => last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1),
        None => part.parse::<usize>().ok().map(|_| 1),
    };
    list.split(',').map(count).sum()
}

/// The least CPU quota of this process's control group and those above it (cgroup v2, then v1).
fn quota() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let mut folder = Some(Path::new(own));
    let mut least: Option<f64> = None;
    while let Some(group) = folder {
        let file = Path::new("/sys/fs/cgroup").join(group).join("cpu.max");
        let found = fs::read_to_string(file).ok().and_then(|text| share(&text));
        least = least.into_iter().chain(found).reduce(f64::min);
        folder = group.parent();
    }
    least.or_else(|| {
        let read = |name| fs::read_to_string(Path::new("/sys/fs/cgroup/cpu").join(name)).ok();
        share(&format!("{} {}", read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?))
    })
}

/// Processors' worth of time in "QUOTA PERIOD"; `None` for no limit ("max", -1).
fn share(text: &str) -> Option<f64> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<f64>);
    let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// Total and available memory in bytes, where the system tells.
pub fn memory() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for (list, count) in [("0", Some(1)), ("0-3", Some(4)), ("0-3,8", Some(5)), ("", None), ("3-1", None)] {
            assert_eq!(count_cpus(list), count, "{list:?}");
        }
    }

    #[test]
    fn quotas() {
        for (text, quota) in [("max 100000\n", None), ("150000 100000\n", Some(1.5)), ("-1 100000", None), ("", None)] {
            assert_eq!(share(text), quota, "{text:?}");
        }
    }

    #[test]
    fn the_deciding_limit_is_named() {
        let limits = CpuLimits { cores: Some(8), logical: 16, affinity: Some(16), quota: None };
        assert_eq!((limits.threads(), limits.reason()), (8, "physical cores"));
        let limits = CpuLimits { logical: 2, quota: Some(2.5), ..limits };
        assert_eq!((limits.threads(), limits.reason()), (2, "the CPU quota of the control group"));
        let limits = CpuLimits { affinity: Some(2), quota: None, ..limits };
        assert_eq!((limits.threads(), limits.reason()), (2, "the affinity mask of the process"));
        let limits = CpuLimits { cores: None, affinity: None, ..limits };
        assert_eq!((limits.threads(), limits.reason()), (2, "the processors that the system grants"));
        assert!(CpuLimits::found().threads() >= 1);
    }
}
