//! Without privileges rung diagnoses the user's own processes by /proc, and says what it could not see.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rung_diagnosis::mode::Mode;
use rung_tests::rung::Rung;
use serde_json::Value;

/// nobody, who owns nothing here.
const USER: u32 = 65534;

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn as_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([&format!("--reuid={USER}"), &format!("--regid={USER}")])
        .args(["--clear-groups", "--"])
        .arg(program.as_ref())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Exit status and report of a look as the user, who can execute the copy in `scratch`.
fn look(scratch: &Path, window: &str) -> (i32, Value) {
    let output = as_user(scratch.join("rung"))
        .args(["--for", window, "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {words}"));
    (output.status.code().unwrap_or(-1), report)
}

fn alarming<'a>(report: &'a Value, pids: &[u32]) -> Vec<&'a Value> {
    let findings = report["findings"].as_array().unwrap().iter();
    let alarms = findings.filter(|finding| finding["severity"] != "notice");
    alarms
        .filter(|finding| pids.iter().any(|pid| finding["subject"]["pid"] == *pid))
        .collect()
}

#[test]
fn own_faults_are_found_those_of_others_are_declared() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("rung-plain-{}", std::process::id())));
    fs::create_dir(&scratch.0).unwrap();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(Rung::find().unwrap().binary(), scratch.0.join("rung")).unwrap();

    let idle = Running(as_user("sleep").arg("100").spawn().unwrap());
    let (status, report) = look(&scratch.0, "0s");
    assert_eq!(alarming(&report, &[idle.0.id()]), Vec::<&Value>::new());
    let any = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .any(|finding| finding["severity"] != "notice");
    assert_eq!(status, i32::from(any), "the exit status goes by the findings");
    let coverage = report["coverage"].as_array().unwrap();
    assert_eq!(coverage.len(), Mode::ALL.len());
    for mode in [Mode::Deadlock, Mode::PipeStall, Mode::ProcessDeadlock] {
        let entry = coverage.iter().find(|entry| entry["mode"] == mode.id()).unwrap();
        let said = |key: &str| entry[key].as_str().unwrap_or("").to_owned();
        assert!(said("why").contains("not readable"), "{entry}");
        assert!(said("remedy").contains("root"), "{entry}");
    }

    // The reader inherits the read end as its standard input and never reads.
    let (read, write) = std::io::pipe().unwrap();
    let reader = Running(as_user("sleep").arg("100").stdin(read).spawn().unwrap());
    let writer = Running(
        as_user("cat")
            .stdin(fs::File::open("/dev/zero").unwrap())
            .stdout(write)
            .spawn()
            .unwrap(),
    );
    std::thread::sleep(Duration::from_millis(500));
    let (status, report) = look(&scratch.0, "7s");
    let found = alarming(&report, &[reader.0.id()]);
    assert_eq!(found.len(), 1, "{:#}", report["findings"]);
    assert_eq!(found[0]["mode"], "pipe-stall");
    assert!(
        found[0]["others"]
            .as_array()
            .unwrap()
            .iter()
            .any(|other| other["pid"] == writer.0.id())
    );
    assert_eq!(status, 1);
}
