//! A score from a command: its words, run without a shell; the last line of its standard output is the number.
//!
//! The line is split once, by a shell's rules for quotes and backslashes, before `{out}` is replaced by the model's folder: a
//! path with spaces stays one word, and nothing is expanded. What the command prints goes to files, so that one that
//! prints without end blocks nobody, and what it leaves running holds nobody up. It runs in a process group of its own,
//! which is ended as a whole when the caller asks to stop.

use polmrs_core::{Ctl, Error, Result};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What stands for the model's folder.
const OUT: &str = "{out}";
/// Between two looks at a command that runs.
const LOOK: Duration = Duration::from_millis(20);
/// How long a command that was asked to end may take.
const GRACE: Duration = Duration::from_secs(5);
/// How much of what a command printed is read, from its end, and how much of that a message shows.
const TAIL: u64 = 64 << 10;
const SHOWN: usize = 10;

/// A command that scores a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    words: Vec<String>,
}

impl Command {
    /// Splits a line into words.
    ///
    /// # Errors
    /// [`Error::Usage`] for a quote that is not closed, and for what [`Command::new`] refuses.
    pub fn parse(line: &str) -> Result<Command> {
        let words = shlex::split(line);
        Command::new(words.ok_or_else(|| Error::Usage(format!("score: a quote in \"{line}\" is not closed")))?)
    }

    /// Takes words as they are.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, or `{out}` is in none of them.
    pub fn new(words: Vec<String>) -> Result<Command> {
        if !words.iter().any(|word| word.contains(OUT)) {
            let words = words.join(" ");
            return Err(Error::Usage(format!(
                "score: '{words}' does not name the model; write {OUT} where its folder goes"
            )));
        }
        Ok(Command { words })
    }

    /// Its words.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The score of a model. `scratch` is a folder for what the command prints.
    ///
    /// # Errors
    /// [`Error::Usage`] with the last lines that it printed if it fails or its last line is not one finite number.
    pub fn score(&self, model: &Path, scratch: &Path, ctl: &Ctl) -> Result<f64> {
        let model = model.to_str().ok_or_else(|| Error::Usage(format!("{}: not UTF-8", model.display())))?;
        let words: Vec<String> = self.words.iter().map(|word| word.replace(OUT, model)).collect();
        let (printed, complained) = (scratch.join("score.stdout"), scratch.join("score.stderr"));
        // New files, not old ones emptied: a command that a killed run has left may still write into those.
        let create = |path: &Path| {
            let _ = fs::remove_file(path); // where there is none, or it cannot go, the next step says what is wrong
            File::create_new(path).map_err(Error::io(path, "create"))
        };
        let child = std::process::Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(create(&printed)?)
            .stderr(create(&complained)?)
            .process_group(0)
            .spawn()
            .map_err(|error| Error::Usage(format!("score: cannot run '{}': {error}", words[0])))?;
        let status = Running(child).wait(ctl)?;
        let text = tail(&printed)?;
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let failed = |why: String| -> Result<f64> {
            let complaint = tail(&complained)?;
            let said = if complaint.trim().is_empty() { &text } else { &complaint };
            Err(Error::Usage(format!("score: '{}' {why}{}", words.join(" "), quoted(said))))
        };
        match last.parse::<f64>() {
            _ if !status.success() => failed(format!("failed ({status})")),
            Ok(score) if score.is_finite() => Ok(score),
            _ if last.is_empty() => failed("printed nothing; the last line must be one finite number".into()),
            _ => failed(format!("ended with the line '{last}', which is not one finite number")),
        }
    }
}

/// A command that runs; it does not outlive this.
struct Running(Child);

impl Running {
    fn wait(mut self, ctl: &Ctl) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.look()? {
                return Ok(status);
            }
            ctl.check()?;
            sleep(LOOK);
        }
    }

    fn look(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().map_err(Error::io("score", "wait for"))
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill only sends a signal; the child leads the group of its own number and has not been waited for.
        unsafe { libc::kill(-(self.0.id() as libc::pid_t), signal) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.look(), Ok(None)) {
            return;
        }
        self.signal(libc::SIGTERM);
        let until = Instant::now() + GRACE;
        while Instant::now() < until {
            if !matches!(self.look(), Ok(None)) {
                return;
            }
            sleep(LOOK);
        }
        self.signal(libc::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The end of a file, as text.
fn tail(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let len = fs::metadata(path).map_err(Error::io(path, "look at"))?.len();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))
        .and_then(|_| file.take(TAIL).read_to_end(&mut bytes))
        .map_err(Error::io(path, "read"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a text, for a message.
fn quoted(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(SHOWN)..];
    let shown: Vec<String> = last.iter().map(|line| format!("\n  | {line}")).collect();
    if shown.is_empty() { String::new() } else { format!("; it said:{}", shown.concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(script: &str) -> Result<f64> {
        let scratch = tempfile::tempdir().unwrap();
        let words = ["sh", "-c", script, "{out}"].map(str::to_owned).to_vec();
        Command::new(words)?.score(Path::new("/models/my model"), scratch.path(), &Ctl::new())
    }

    #[test]
    fn the_last_line_is_the_score_whatever_stands_before_it() {
        assert_eq!(score("echo loading; echo 2.5e-1; echo; echo careful >&2").unwrap(), 0.25);
        assert_eq!(score("test \"$0\" = '/models/my model' && echo 1").unwrap(), 1.0);
    }

    #[test]
    fn a_line_is_split_as_a_shell_would_and_nothing_is_expanded() {
        let command = Command::parse("eval.py --model '{out}' \"a b\" c\\ d $HOME * ;").unwrap();
        assert_eq!(command.words(), ["eval.py", "--model", "{out}", "a b", "c d", "$HOME", "*", ";"]);
    }

    #[test]
    fn what_went_wrong_is_said_with_the_last_lines() {
        for (script, message) in [
            ("echo one; echo two; exit 3", "failed (exit status: 3); it said:\n  | one\n  | two"),
            ("echo no module torch >&2; exit 1", "failed (exit status: 1); it said:\n  | no module torch"),
            ("echo accuracy: 0.5", "ended with the line 'accuracy: 0.5', which is not one finite number"),
            ("echo nan", "ended with the line 'nan', which is not one finite number"),
            ("true", "printed nothing; the last line must be one finite number"),
        ] {
            let error = score(script).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = Command::parse("no-such-program {out}").unwrap();
        let error = error.score(Path::new("/m"), tempfile::tempdir().unwrap().path(), &Ctl::new()).unwrap_err();
        assert!(error.to_string().starts_with("score: cannot run 'no-such-program'"), "{error}");
        assert!(Command::parse("eval 'x {out}").unwrap_err().to_string().contains("is not closed"));
        assert!(Command::parse("eval.py").unwrap_err().to_string().contains("write {out}"));
    }

    #[test]
    fn what_an_earlier_command_still_prints_is_not_the_score() {
        let scratch = tempfile::tempdir().unwrap();
        let (printed, go) = (scratch.path().join("score.stdout"), scratch.path().join("go"));
        let mut earlier = File::options().create(true).append(true).open(&printed).unwrap();
        let script = format!("echo 1; while ! test -e '{}'; do sleep 0.01; done", go.display());
        let command = Command::new(["sh", "-c", &script, "{out}"].map(str::to_owned).to_vec()).unwrap();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| command.score(Path::new("/m"), scratch.path(), &Ctl::new()));
            while fs::read_to_string(&printed).unwrap_or_default() != "1\n" {
                sleep(LOOK);
            }
            std::io::Write::write_all(&mut earlier, b"7\n").unwrap();
            File::create(&go).unwrap();
            assert_eq!(run.join().unwrap().unwrap(), 1.0);
        });
    }

    #[test]
    fn a_command_ends_with_all_that_it_started_when_it_is_asked_to() {
        let scratch = tempfile::tempdir().unwrap();
        let alive = scratch.path().join("alive");
        let script = format!("(while true; do date > '{}'; sleep 0.05; done) & wait", alive.display());
        let command = Command::new(["sh", "-c", &script, "{out}"].map(str::to_owned).to_vec()).unwrap();
        let ctl = Ctl::new();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| command.score(Path::new("/m"), scratch.path(), &ctl));
            while !alive.exists() {
                sleep(LOOK);
            }
            ctl.cancel();
            assert!(matches!(run.join().unwrap(), Err(Error::Cancelled)));
        });
        sleep(Duration::from_millis(200));
        fs::remove_file(&alive).unwrap();
        sleep(Duration::from_millis(200));
        assert!(!alive.exists(), "something still writes it");
    }
}
