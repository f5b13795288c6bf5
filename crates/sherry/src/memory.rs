//! How much memory there is for this process.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Bytes that this process can take without making the system swap or its control group (a container's limit) end it;
/// `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let system = of_system(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = of_groups(Path::new("/sys/fs/cgroup"), &groups);
    system.into_iter().chain(group).min()
}

/// What `/proc/meminfo` says.
fn of_system(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that the control groups of this process and those around them leave; `groups` is `/proc/self/cgroup`.
fn of_groups(mount: &Path, groups: &str) -> Option<u64> {
    let left = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, Path::new(fields.next()?));
        let files = match controllers {
            // The second version has one hierarchy for all controllers.
            "" => Files { limit: "memory.max", usage: "memory.current", cache: ["inactive_file", "active_file"] },
            "memory" => Files {
                limit: "memory.limit_in_bytes",
                usage: "memory.usage_in_bytes",
                cache: ["total_inactive_file", "total_active_file"],
            },
            _ => return None,
        };
        let root = mount.join(controllers);
        // Inside a container the path may be that of the host, whose folders are not to be seen: then only the root is.
        let inner: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        inner.ancestors().filter_map(|group| files.left(&root.join(group))).min()
    });
    left.min()
}

/// Where a version of control groups writes things down.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Counts of file pages in `memory.stat`, which are given up when memory runs short.
    cache: [&'static str; 2],
}

impl Files {
    fn left(&self, group: &Path) -> Option<u64> {
        let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let statistics = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let count = |name: &str| -> Option<u64> {
            statistics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        };
        let cache: u64 = self.cache.iter().filter_map(|name| count(name)).sum();
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }

    #[test]
    fn the_system_tells_in_kibibytes() {
        assert_eq!(of_system("MemTotal:       24000 kB\nMemAvailable:     20000 kB\n"), Some(20000 * 1024));
        assert_eq!(of_system("MemTotal: 24000 kB\n"), None);
        assert_eq!(of_system("MemAvailable: 99999999999999999999 kB\n"), None);
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let place = tempfile::tempdir().unwrap();
        let mount = place.path();
        let membership = "12:cpu,cpuacct:/a/b\n3:memory:/a/b\n0::/a/b\n";
        assert_eq!(of_groups(mount, membership), None);
        let stat = "anon 10\ninactive_file 100\nactive_file 20\ninactive_file_more 1\n";
        group(&mount.join("a/b"), &[("memory.max", "max\n"), ("memory.current", "700\n")]);
        assert_eq!(of_groups(mount, membership), None, "no limit");
        group(&mount.join("a"), &[("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", stat)]);
        assert_eq!(of_groups(mount, membership), Some(1000 - (700 - 120)));
        group(&mount.join("a/b"), &[("memory.max", "600\n"), ("memory.current", "700\n")]);
        assert_eq!(of_groups(mount, membership), Some(0));
        // The first version, whose path leads nowhere inside a container.
        let first = [("memory.limit_in_bytes", "5000"), ("memory.usage_in_bytes", "400")];
        group(&mount.join("memory"), &first);
        assert_eq!(of_groups(mount, "3:memory:/of/the/host\n"), Some(4600));
        assert_eq!(of_groups(mount, "3:memory:/../..\nnonsense\n"), Some(4600));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
