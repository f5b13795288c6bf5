//! How many threads a model runs on when nobody says: physical cores that this process may use.
//!
//! Decoding is bound by memory and by full vector units, so a second hyper-thread of a core adds nothing, and a thread
//! beyond a CPU quota gets the others throttled. Processors this process may not run on, siblings and quotas are read from
//! `/proc` and `/sys`; whatever cannot be read or makes no sense there limits nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

/// A number of threads and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threads {
    /// At least one.
    pub threads: usize,
    /// For people: "8 physical cores, 16 logical processors".
    pub reason: String,
}

/// Longest file of interest; the real ones are shorter than a page.
const MAX_BYTES: u64 = 64 << 10;
/// Processors are numbered below this.
const MAX_CPUS: usize = 8192;
/// Ancestors of a control group that are looked at.
const MAX_GROUPS: usize = 64;

/// The default on this machine, for this process.
///
/// ```
/// let default = sherry::threads::default_threads();
/// println!("{} threads: {}", default.threads, default.reason);
/// # assert!(default.threads >= 1);
/// ```
pub fn default_threads() -> Threads {
    choose(Path::new("/"), std::thread::available_parallelism().map_or(1, usize::from))
}

/// The default on a system whose files are under `root`, where the standard library counts `logical` processors.
fn choose(root: &Path, logical: usize) -> Threads {
    let Some(cpus) = allowed_cpus(root) else {
        return Threads { threads: logical, reason: format!("{}, as the system says", count(logical, "processor")) };
    };
    let cores = cpus.iter().map(|&cpu| core_of(root, cpu)).collect::<BTreeSet<_>>().len();
    let mut reason = count(cores, "physical core");
    if cores != cpus.len() {
        reason += &format!(", {} logical processors", cpus.len());
    }
    if let Some(present) = cpu_list(&root.join("sys/devices/system/cpu/online"))
        && present.len() > cpus.len()
    {
        reason += &format!(" of {} (affinity)", present.len());
    }
    match quota(root) {
        Some(Quota { cpus: quota, file }) if (quota as usize) < cores => {
            let reason = format!("CPU quota of {quota:.1} in {} ({reason})", file.display());
            Threads { threads: (quota as usize).max(1), reason }
        }
        _ => Threads { threads: cores, reason },
    }
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The first bytes of a file.
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Processors this process may run on.
fn allowed_cpus(root: &Path) -> Option<BTreeSet<usize>> {
    let status = read(&root.join("proc/self/status"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_cpu_list(list)
}

/// The processor by which a core is known: the first of its siblings.
fn core_of(root: &Path, cpu: usize) -> usize {
    let topology = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
    let siblings = ["thread_siblings_list", "core_cpus_list"].iter().find_map(|name| cpu_list(&topology.join(name)));
    // A list that does not name the processor itself is nonsense.
    siblings.filter(|list| list.contains(&cpu)).and_then(|list| list.first().copied()).unwrap_or(cpu)
}

fn cpu_list(path: &Path) -> Option<BTreeSet<usize>> {
    parse_cpu_list(&read(path)?)
}

/// "0-3,8" as numbers; `None` for anything else, nothing included.
fn parse_cpu_list(text: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The tightest CPU quota on this process.
#[derive(Debug)]
struct Quota {
    /// Processors' worth of time.
    cpus: f64,
    /// Where it is written.
    file: PathBuf,
}

/// The smallest quota of the control groups of this process and all that they are in, versions 1 and 2.
fn quota(root: &Path) -> Option<Quota> {
    let groups = read(&root.join("proc/self/cgroup"))?;
    let mut tightest: Option<Quota> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (mounts, version): (&[&str], _) = match controllers {
            "" => (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], 2),
            list if list.split(',').any(|name| name == "cpu") => {
                (&["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu"], 1)
            }
            _ => continue,
        };
        // Inside a container the path may be that of the host; its limits are then those of the mount itself.
        let names = Path::new(group).components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        for mount in mounts {
            let mut folder = root.join(mount);
            let found = std::iter::once(folder.clone()).chain(names.clone().map(|name| {
                folder.push(name);
                folder.clone()
            }));
            for folder in found.take(MAX_GROUPS) {
                let (cpus, file) = match version {
                    2 => (quota_of_2(&folder), "cpu.max"),
                    _ => (quota_of_1(&folder), "cpu.cfs_quota_us"),
                };
                if let Some(cpus) = cpus
                    && tightest.as_ref().is_none_or(|quota| cpus < quota.cpus)
                {
                    tightest = Some(Quota { cpus, file: folder.join(file) });
                }
            }
        }
    }
    tightest
}

/// `cpu.max`: "QUOTA PERIOD", or "max PERIOD".
fn quota_of_2(folder: &Path) -> Option<f64> {
    let text = read(&folder.join("cpu.max"))?;
    let mut fields = text.split_ascii_whitespace();
    ratio(fields.next()?, fields.next()?)
}

/// `cpu.cfs_quota_us` (-1 for none) over `cpu.cfs_period_us`.
fn quota_of_1(folder: &Path) -> Option<f64> {
    ratio(&read(&folder.join("cpu.cfs_quota_us"))?, &read(&folder.join("cpu.cfs_period_us"))?)
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let microseconds = |text: &str| text.trim().parse::<u64>().ok().filter(|&n| n > 0);
    Some(microseconds(quota)? as f64 / microseconds(period)? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the given files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn chosen(files: &[(&str, &str)]) -> (usize, String) {
        let Threads { threads, reason } = choose(root(files).path(), 7);
        (threads, reason)
    }

    const STATUS: (&str, &str) = ("proc/self/status", "Name:\tsherry\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\n");
    const SIBLINGS: [(&str, &str); 4] = [
        ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,2\n"),
        ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,3\n"),
        ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n"),
        ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "1,3\n"),
    ];

    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&[STATUS], SIBLINGS.as_slice(), more].concat()
    }

    #[test]
    fn siblings_count_once_and_affinity_counts() {
        assert_eq!(chosen(&[]), (7, "7 processors, as the system says".to_owned()));
        assert_eq!(chosen(&[STATUS]), (4, "4 physical cores".to_owned()));
        assert_eq!(chosen(&with(&[])), (2, "2 physical cores, 4 logical processors".to_owned()));
        let pinned = [("proc/self/status", "Cpus_allowed_list:\t1,3"), SIBLINGS[1], SIBLINGS[3]];
        assert_eq!(chosen(&pinned), (1, "1 physical core, 2 logical processors".to_owned()));
        let pinned = [("proc/self/status", "Cpus_allowed_list:\t2"), ("sys/devices/system/cpu/online", "0-3\n")];
        assert_eq!(chosen(&pinned), (1, "1 physical core of 4 (affinity)".to_owned()));
    }

    #[test]
    fn quotas_of_both_versions_and_of_ancestors() {
        let group = ("proc/self/cgroup", "0::/kubepods/pod1/c\n");
        assert_eq!(chosen(&with(&[group, ("sys/fs/cgroup/kubepods/pod1/c/cpu.max", "max 100000\n")])).0, 2);
        assert_eq!(chosen(&with(&[group, ("sys/fs/cgroup/kubepods/pod1/c/cpu.max", "900000 100000\n")])).0, 2);
        let (threads, reason) = chosen(&with(&[group, ("sys/fs/cgroup/kubepods/pod1/c/cpu.max", "150000 100000\n")]));
        assert_eq!(threads, 1);
        assert!(reason.starts_with("CPU quota of 1.5 in ") && reason.contains("cpu.max"), "{reason}");
        assert_eq!(chosen(&with(&[group, ("sys/fs/cgroup/kubepods/cpu.max", "100000 100000\n")])).0, 1);
        assert_eq!(chosen(&with(&[group, ("sys/fs/cgroup/cpu.max", "10000 100000\n")])).0, 1, "never none");
        let group = ("proc/self/cgroup", "5:memory:/x\n4:cpuacct,cpu:/docker/abc\n1:name=systemd:/\n");
        let quota = ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n");
        let period = ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!(chosen(&with(&[group, quota, period])).0, 1, "the path of the host");
        assert_eq!(chosen(&with(&[group, ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"), period])).0, 2);
        assert_eq!(chosen(&with(&[group, quota])).0, 2, "no period, no quota");
    }

    #[test]
    fn nonsense_limits_nothing() {
        for list in ["", "x", "3-1", "0-99999999999999999999", "0-8192", "-1", "0,,1", "0-"] {
            let status = format!("Cpus_allowed_list:\t{list}\n");
            assert_eq!(chosen(&[("proc/self/status", status.as_str())]).0, 7, "{list}");
            let siblings = [STATUS, ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", list)];
            assert_eq!(chosen(&siblings).0, 4, "{list}");
        }
        let others = [STATUS, ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "0,2")];
        assert_eq!(chosen(&others).0, 4, "siblings without the processor itself");
        for text in ["", "max", "0 100000", "100000 0", "-5 100000", "1e3 5", "99999999999999999999999 1", "x y"] {
            let files = with(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", text)]);
            assert_eq!(chosen(&files).0, 2, "{text}");
        }
        for group in ["", "0", "0:", "::", "0::", "0::/../../../../etc", "0::\u{0}", "\u{feff}0::/"] {
            assert_eq!(chosen(&with(&[("proc/self/cgroup", group)])).0, 2, "{group}");
        }
        let deep = format!("0::{}\n", "/a".repeat(30_000));
        assert_eq!(chosen(&with(&[("proc/self/cgroup", deep.as_str())])).0, 2);
    }

    #[test]
    fn a_group_cannot_lead_outside() {
        let files = with(&[("proc/self/cgroup", "0::/../../outside\n"), ("outside/cpu.max", "1000 100000\n")]);
        assert_eq!(chosen(&files).0, 2);
    }

    #[test]
    fn this_machine_has_threads() {
        let Threads { threads, reason } = default_threads();
        assert!(threads >= 1 && !reason.is_empty());
    }
}
