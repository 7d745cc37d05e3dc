//! `cargo xtask demo`: what Wasmill does, from an empty data directory to results on disk.

mod input;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::server::Server;
use wasmill_processes::shell::{self, cargo, target_dir};
use wasmill_processes::{guests, setup};

/// The text is at least this long.
const TEXT_BYTES: usize = 2_000_000;
/// Width and height of the picture in pixels: what a camera makes.
const PICTURE: (u32, u32) = (4000, 3000);
/// The thumbnail fits into a square of this side.
const THUMBNAIL_SIDE: u32 = 320;
/// How long a task may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the whole demonstration; fails when anything is not as it should be.
pub(crate) fn run() -> Result<()> {
    setup::guest_targets()?;
    setup::protoc()?;
    let dir = target_dir().join("demo");
    let guest_dir = dir.join("guests");
    let guests = guests::build_all(&guest_dir)?;
    shell::run(&mut cargo(["build", "--release", "--locked", "--package", "wasmill"]))?;
    let demo = Demo { server: Server::start(&target_dir().join("release/wasmill"), &dir)?, dir };

    say("Upload the examples");
    for guest in &guests {
        let file = guest.path.to_string_lossy();
        shell::run(&mut demo.server.client(["push", &file, "--alias", guest.name]))?;
    }
    demo.show(["modules"])?;
    demo.say_hello()?;
    demo.count_words()?;
    demo.shrink_picture()?;
    demo.hit_limits()?;
    let cancelled = demo.cancel_spinning()?;

    say("What happened");
    demo.show(["ps"])?;
    demo.show(["get", &cancelled])?;
    demo.show(["events", &cancelled])?;
    demo.show(["hosts"])?;
    demo.show(["status"])?;
    let thumbnail = demo.thumbnail();
    demo.server.stop()?;
    say(&format!("Done. The thumbnail is in {}", thumbnail.display()));
    Ok(())
}

fn say(text: &str) {
    eprintln!("\n== {text}");
}

struct Demo {
    server: Server,
    dir: PathBuf,
}

impl Demo {
    fn show<const COUNT: usize>(&self, arguments: [&str; COUNT]) -> Result<()> {
        shell::run(&mut self.server.client(arguments))
    }

    /// The stdout of a client command, and how long it took.
    fn timed<const COUNT: usize>(&self, arguments: [&str; COUNT]) -> Result<(String, Duration)> {
        let mut command = self.server.client(arguments);
        eprintln!("\n$ {}", shell::show(&command));
        let started = Instant::now();
        let stdout = shell::capture(&mut command)?;
        Ok((stdout, started.elapsed()))
    }

    fn say_hello(&self) -> Result<()> {
        say("Run a task: JSON in, JSON out");
        let (output, took) = self.timed(["run", "hello", "--input", r#"{"name": "Wasmill"}"#])?;
        println!("{output}");
        eprintln!("{:.1} ms from the shell and back", took.as_secs_f64() * 1e3);
        ensure!(output.contains("Wasmill"), "`hello` does not greet Wasmill");
        Ok(())
    }

    fn count_words(&self) -> Result<()> {
        let (text, words) = input::text(TEXT_BYTES);
        say(&format!("Count the words of a text of {} bytes", text.len()));
        let file = self.write("book.txt", text.as_bytes())?;
        let (output, took) = self.timed(["run", "word-count", "--input-file", &file])?;
        let counted: Value = serde_json::from_str(&output).context("`word-count` does not answer JSON")?;
        eprintln!(
            "{} words, {} of them distinct, in {:.0} ms",
            counted["words"],
            counted["distinct"],
            took.as_secs_f64() * 1e3
        );
        ensure!(counted["words"] == words, "`word-count` counts {} words of {words}", counted["words"]);
        Ok(())
    }

    fn shrink_picture(&self) -> Result<()> {
        let (width, height) = PICTURE;
        let picture = input::picture(width, height);
        say(&format!("Shrink a picture of {width} x {height} pixels, {} bytes", picture.len()));
        let file = self.write("picture.png", &picture)?;
        let side = THUMBNAIL_SIDE.to_string();
        let arguments = ["run", "thumbnail", "--input-file", &file, "--", "--width", &side, "--height", &side];
        let mut command = self.server.client(arguments);
        eprintln!("\n$ {} > {}", shell::show(&command), self.thumbnail().display());
        let started = Instant::now();
        let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start the client")?;
        ensure!(output.status.success(), "`thumbnail` ended with {}", output.status);
        std::fs::write(self.thumbnail(), &output.stdout).context("cannot write the thumbnail")?;
        let size = input::png_size(&output.stdout).context("`thumbnail` did not make a PNG")?;
        eprintln!(
            "{} x {} pixels, {} bytes, in {:.0} ms",
            size.0,
            size.1,
            output.stdout.len(),
            started.elapsed().as_secs_f64() * 1e3
        );
        ensure!(size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE * height / width), "the thumbnail has the wrong size");
        Ok(())
    }

    fn hit_limits(&self) -> Result<()> {
        say("Limits are limits: these fail, each for its own reason");
        for (arguments, expected) in [
            (["run", "memory-hog", "--memory", "64MiB"], "memory_exceeded"),
            (["run", "spin-forever", "--cpu-ms", "200"], "cpu_exceeded"),
            (["run", "spin-forever", "--fuel", "1000000"], "fuel_exhausted"),
            (["run", "spin-forever", "--wall-ms", "300"], "deadline_exceeded"),
        ] {
            let mut command = self.server.client(arguments);
            eprintln!("\n$ {}", shell::show(&command));
            let output = command.output().context("cannot start the client")?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            eprint!("{stderr}");
            ensure!(output.status.code() == Some(1), "exit code 1 is expected, not {}", output.status);
            ensure!(stderr.contains(expected), "`{expected}` is expected");
        }
        Ok(())
    }

    /// Gives the id of the cancelled task.
    fn cancel_spinning(&self) -> Result<String> {
        say("Cancel a task that never ends by itself");
        let (id, _) = self.timed(["submit", "spin-forever"])?;
        let id = id.trim().to_owned();
        let started = Instant::now();
        while self.state(&id)? != "running" {
            ensure!(started.elapsed() < START_TIMEOUT, "task {id} does not start");
        }
        let (output, took) = self.timed(["cancel", &id])?;
        print!("{output}");
        eprintln!("stopped {:.1} ms after the shell was asked", took.as_secs_f64() * 1e3);
        let state = self.state(&id)?;
        ensure!(state == "cancelled", "the cancelled task is {state}");
        Ok(id)
    }

    fn state(&self, id: &str) -> Result<String> {
        let task: Value = serde_json::from_str(&shell::capture(&mut self.server.client(["get", "--json", id]))?)?;
        Ok(task["state"].as_str().unwrap_or_default().to_owned())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let file = self.dir.join(name);
        std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(path_text(&file))
    }

    fn thumbnail(&self) -> PathBuf {
        self.dir.join("thumbnail.png")
    }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
