//! The C library from outside: the header, the libraries as they are installed, and programs of several languages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sherry_testing::{Outcome, program, python};

sherry_testing::main![
    the_header_is_plain_c_and_cpp,
    header_and_exports_are_the_same,
    a_c_program_linked_statically,
    a_cpp_program_linked_dynamically_with_a_folder,
    the_program_of_the_guide,
    under_valgrind,
    under_address_sanitizer,
    through_cmake,
    through_ctypes,
    through_luajit,
    through_cgo,
    through_jna,
];

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/model/sherry-tiny.gguf");
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// Where the library is installed for these tests.
fn installed() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        // This program lies beside the libraries that it was built with.
        let test = std::env::current_exe().unwrap();
        let built = test.parent().unwrap();
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("c");
        done(Command::new(format!("{HERE}/install.sh")).arg(&place).arg(built));
        place
    })
}

/// Its output, once it has ended well.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Compiles `tests/c/all.c` into `name` with everything of `arguments` behind it.
fn compile(compiler: &Path, name: &str, first: &[&str], last: &[&str]) -> PathBuf {
    let place = installed();
    let out = place.join(name);
    let mut command = Command::new(compiler);
    command.args(WARNINGS).args(first).arg("-I").arg(place.join("include"));
    command.arg("-o").arg(&out).arg(format!("{HERE}/tests/c/all.c")).args(["-x", "none"]).args(last);
    done(&mut command);
    out
}

fn library(name: &str) -> String {
    installed().join("lib").join(name).to_str().unwrap().to_owned()
}

fn statically(compiler: &Path, name: &str, more: &[&str]) -> PathBuf {
    let first: Vec<&str> =
        ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-x", "c"].into_iter().chain(more.iter().copied()).collect();
    compile(compiler, name, &first, &[&library("libsherry.a"), "-lpthread", "-ldl", "-lm"])
}

fn said_ok(output: &str) {
    assert!(output.lines().any(|line| line.starts_with("ok")), "{output}");
}

fn the_header_is_plain_c_and_cpp() -> Outcome {
    let header = format!("{HERE}/include/sherry.h");
    for (compiler, language, standards) in [("gcc", "c", ["c99", "c17"]), ("g++", "c++", ["c++11", "c++20"])] {
        let compiler = program(&[compiler])?;
        for standard in standards {
            let standard = format!("-std={standard}");
            done(Command::new(&compiler).args(WARNINGS).args([&standard, "-fsyntax-only", "-x", language, &header]));
        }
    }
    Ok(())
}

fn header_and_exports_are_the_same() -> Outcome {
    let nm = program(&["nm"])?;
    let header = std::fs::read_to_string(format!("{HERE}/include/sherry.h")).unwrap();
    let code: String = header.split("/*").map(|part| part.split_once("*/").map_or(part, |(_, code)| code)).collect();
    let declared: BTreeSet<String> = code
        .split("SHERRY_API ")
        .skip(1)
        .filter_map(|text| text.split_once('('))
        .filter_map(|(before, _)| before.split(|c: char| !c.is_alphanumeric() && c != '_').next_back())
        .filter(|name| name.starts_with("sherry_"))
        .map(str::to_owned)
        .collect();
    let names = done(Command::new(nm).args(["-D", "--defined-only", &library("libsherry.so")]));
    let exported: BTreeSet<String> =
        names.lines().filter_map(|line| line.split(" T ").nth(1)).map(str::to_owned).collect();
    assert!(declared.len() >= 15, "{declared:?}");
    assert_eq!(declared, exported);
    Ok(())
}

fn a_c_program_linked_statically() -> Outcome {
    let built = statically(&program(&["gcc"])?, "static", &[]);
    said_ok(&done(Command::new(&built).args(["builtin", TINY])));
    said_ok(&done(Command::new(&built).args([TINY, TINY])));
    Ok(())
}

/// By what pkg-config says where it is there, and with the model as a folder of files.
fn a_cpp_program_linked_dynamically_with_a_folder() -> Outcome {
    let compiler = program(&["g++"])?;
    let lib = installed().join("lib");
    let flags = match program(&["pkg-config"]) {
        Ok(tool) => done(Command::new(tool).args(["--libs", "sherry"]).env("PKG_CONFIG_PATH", lib.join("pkgconfig"))),
        Err(_) => format!("-L{} -lsherry", lib.display()),
    };
    let last: Vec<&str> = flags.split_whitespace().chain(["-lpthread"]).collect();
    let built = compile(&compiler, "dynamic", &["-std=c++17", "-x", "c++"], &last);

    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let checkpoint = sherry::model::Checkpoint::open(TINY.as_ref(), sherry::io::ReadMode::Read).unwrap();
    let request = sherry_convert::Request::keep();
    sherry_convert::convert(&checkpoint, &model, &request, &sherry::NoProgress, |_| {}).unwrap();
    assert!(model.join("config.json").exists());
    said_ok(&done(Command::new(&built).arg(&model).arg(TINY).env("LD_LIBRARY_PATH", &lib)));
    Ok(())
}

/// What `docs/c.md` shows compiles and speaks.
fn the_program_of_the_guide() -> Outcome {
    let compiler = program(&["cc"])?;
    let guide = std::fs::read_to_string(format!("{HERE}/../../docs/c.md")).unwrap();
    let code = guide.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let place = installed();
    let (source, out) = (place.join("chat.c"), place.join("chat"));
    std::fs::write(&source, code).unwrap();
    let mut command = Command::new(compiler);
    command.args(WARNINGS).arg("-I").arg(place.join("include")).arg(source).arg("-o").arg(&out);
    done(command.args([&library("libsherry.a"), "-lpthread", "-ldl", "-lm"]));
    assert!(done(&mut Command::new(out)).len() > 10);
    Ok(())
}

fn under_valgrind() -> Outcome {
    let valgrind = program(&["valgrind"])?;
    let built = statically(&program(&["gcc"])?, "valgrind", &["-g"]);
    let mut command = Command::new(valgrind);
    command.arg(format!("--suppressions={HERE}/tests/c/valgrind.supp"));
    command.args(["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect"]);
    said_ok(&done(command.arg(built).args(["builtin", TINY])));
    Ok(())
}

/// Leaks included: the program frees all it is given.
fn under_address_sanitizer() -> Outcome {
    let built = statically(&program(&["gcc"])?, "address", &["-fsanitize=address,undefined", "-g"]);
    said_ok(&done(Command::new(built).args(["builtin", TINY])));
    Ok(())
}

fn through_cmake() -> Outcome {
    let cmake = program(&["cmake"])?;
    let folder = tempfile::tempdir().unwrap();
    let project = format!(
        "cmake_minimum_required(VERSION 3.16)\nproject(test C)\nfind_package(sherry REQUIRED)\n\
         foreach(kind sherry static)\n  add_executable(with_${{kind}} {HERE}/tests/c/all.c)\n  \
         target_link_libraries(with_${{kind}} sherry::${{kind}} Threads::Threads)\nendforeach()\n"
    );
    std::fs::write(folder.path().join("CMakeLists.txt"), project).unwrap();
    let prefix = format!("-DCMAKE_PREFIX_PATH={}", installed().display());
    done(Command::new(&cmake).current_dir(folder.path()).args(["-B", "build", &prefix]));
    done(Command::new(&cmake).current_dir(folder.path()).args(["--build", "build"]));
    for kind in ["sherry", "static"] {
        said_ok(&done(Command::new(folder.path().join(format!("build/with_{kind}"))).args(["builtin", TINY])));
    }
    Ok(())
}

fn through_ctypes() -> Outcome {
    let mut python = python(&[])?;
    said_ok(&done(python.arg(format!("{HERE}/tests/ffi/ctypes_smoke.py")).arg(library("libsherry.so"))));
    Ok(())
}

fn through_luajit() -> Outcome {
    let luajit = program(&["luajit"])?;
    let header = format!("{HERE}/include/sherry.h");
    let script = format!("{HERE}/tests/ffi/luajit.lua");
    said_ok(&done(Command::new(luajit).arg(script).arg(library("libsherry.so")).arg(header)));
    Ok(())
}

fn through_cgo() -> Outcome {
    let go = program(&["go"])?;
    let (place, out) = (installed(), installed().join("cgo"));
    let mut build = Command::new(go);
    build.env("CGO_CFLAGS", format!("-I{}", place.join("include").display()));
    build.env("CGO_LDFLAGS", format!("-L{} -lsherry", place.join("lib").display()));
    build.env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off").env("GOCACHE", place.join("go-cache"));
    done(build.args(["build", "-o"]).arg(&out).arg(format!("{HERE}/tests/ffi/main.go")));
    said_ok(&done(Command::new(out).env("LD_LIBRARY_PATH", place.join("lib"))));
    Ok(())
}

fn through_jna() -> Outcome {
    let java = program(&["java"])?;
    let jna = sherry_testing::file("/usr/share/java/jna.jar")?;
    let mut command = Command::new(java);
    command.args(["-cp", jna.to_str().unwrap()]).arg(format!("{HERE}/tests/ffi/Smoke.java"));
    said_ok(&done(command.arg(library("libsherry.so"))));
    Ok(())
}
