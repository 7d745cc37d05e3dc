//! Every example does what its README line says.

use wasmill_e2e::{Server, guest, run};

#[test]
fn hello_greets() {
    let server = Server::start();
    server.push("hello");
    let output = server.run(&["run", "hello", "--input", r#"{"name": "Ada"}"#]).done();
    assert_eq!(output.json()["greeting"], "Hello, Ada!");
    assert!(output.stderr.contains("greeting Ada"), "what the guest prints goes to stderr: {}", output.stderr);
}

#[test]
fn hello_rejects_what_no_retry_can_mend() {
    let server = Server::start();
    server.push("hello");
    let id = server.submit(&["hello", "--input", r#"{"name": ""}"#]);
    let _ = server.run(&["wait", &id]).with_code(1);
    let task = server.task(&id);
    assert_eq!(
        (&task["state"], &task["outcome"]["kind"], &task["attempt"]),
        (&"failed".into(), &"rejected".into(), &1.into())
    );
}

#[test]
fn word_count_counts_a_megabyte() {
    let server = Server::start();
    let text = "the quick brown fox jumps over the lazy dog\n".repeat(30_000);
    assert!(text.len() > 1 << 20);
    let file = guest("word-count");
    let output = server.run_with(&["run", &file.to_string_lossy(), "--input-file", "-"], text.as_bytes()).done().json();
    assert_eq!((&output["words"], &output["distinct"]), (&(9 * 30_000).into(), &8.into()));
    assert_eq!((&output["top"][0]["word"], &output["top"][0]["count"]), (&"the".into(), &60_000.into()));
}

#[test]
fn prime_sieve_finds_all_primes() {
    let server = Server::start();
    server.push("prime-sieve");
    let output = server.run(&["run", "prime-sieve", "--input", r#"{"below": 1000000}"#]).done().json();
    assert_eq!((&output["primes"], &output["largest"]), (&78_498.into(), &999_983.into()));
}

#[test]
fn spin_forever_is_stopped_by_each_limit() {
    let server = Server::start();
    server.push("spin-forever");
    for (limit, value, kind) in [
        ("--cpu-ms", "100", "cpu_exceeded"),
        ("--wall-ms", "100", "deadline_exceeded"),
        ("--fuel", "100000", "fuel_exhausted"),
    ] {
        let ended = server.run(&["run", "spin-forever", limit, value]).with_code(1);
        assert!(ended.stdout.is_empty() && ended.stderr.contains(kind), "{limit}: {}", ended.stderr);
    }
}

#[test]
fn spin_forever_is_cancelled() {
    let server = Server::start();
    server.push("spin-forever");
    let id = server.submit(&["spin-forever"]);
    server.wait_for(&id, "running");
    assert_eq!(server.run(&["cancel", &id, "--reason", "enough"]).done().text(), format!("{id} cancelled"));
    let task = server.task(&id);
    assert_eq!((&task["state"], &task["cancel_reason"]), (&"cancelled".into(), &"enough".into()));
    let _ = server.run(&["cancel", &id]).with_code(4);
}

#[test]
fn memory_hog_gets_no_more_than_its_limit() {
    let server = Server::start();
    server.push("memory-hog");
    let dies = server.run(&["run", "memory-hog", "--memory", "16MiB"]).with_code(1);
    assert!(dies.stderr.contains("memory_exceeded"), "{}", dies.stderr);
    let input = r#"{"when_refused": "stop"}"#;
    let notices = server.run(&["run", "memory-hog", "--memory", "16MiB", "--input", input]).done().json();
    let mib = notices["mib"].as_u64().expect("a number");
    assert!((8..16).contains(&mib), "{mib} MiB of 16");
}

#[test]
fn resumable_continues_from_its_checkpoint_after_each_failure() {
    let server = Server::start();
    server.push("resumable");
    let input = r#"{"steps": 10, "rounds_per_step": 1000, "interrupt_after": 4}"#;
    let ended = server.run(&["run", "resumable", "--attempts", "5", "--input", input]).done().json();
    assert_eq!((&ended["attempt"], &ended["resumed_at"]), (&3.into(), &8.into()));
    let whole = server.run(&["run", "resumable", "--input", r#"{"steps": 10, "rounds_per_step": 1000}"#]).done().json();
    assert_eq!(ended["value"], whole["value"]);
}

#[test]
fn thumbnail_shrinks_a_picture() {
    let server = Server::start();
    server.push("thumbnail");
    let output =
        server.run_with(&["run", "thumbnail", "--input-file", "-", "--", "--width", "8"], &picture(32, 16)).done();
    let size = |at: usize| u32::from_be_bytes(output.stdout[at..at + 4].try_into().expect("four bytes"));
    assert!(output.stdout.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert_eq!((size(16), size(20)), (8, 4));
}

#[test]
fn a_command_in_plain_rust_gives_what_it_gives_natively() {
    let server = Server::start();
    server.push("csv-sum");
    let table = b"name,pence,grams\napple,30,120\npear,45,170\n";
    let all = server.run_with(&["run", "csv-sum", "--input-file", "-"], table).done();
    assert_eq!(all.text(), "pence,75\ngrams,290");
    let chosen = ["run", "csv-sum", "--input-file", "-", "--env", "SEPARATOR=;", "--", "grams"];
    assert_eq!(server.run_with(&chosen, table).done().text(), "grams;290");
    let wrong = server.run_with(&["run", "csv-sum", "--input-file", "-", "--", "weight"], table).with_code(1);
    assert!(wrong.stderr.contains("csv-sum: there is no column `weight`"), "{}", wrong.stderr);
}

#[test]
fn a_command_in_c_counts_words() {
    let server = Server::start();
    server.push("c-wordfreq");
    let text = b"To be, or not to be: that is the question.";
    let output = server.run_with(&["run", "c-wordfreq", "--input-file", "-", "--", "2"], text).done();
    let mut lines: Vec<Vec<&str>> = output.text().lines().map(|line| line.split_whitespace().collect()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [["2", "be"], ["2", "to"]]);
}

#[test]
fn a_new_guest_builds_and_runs() {
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("first-task");
    let _ = server.run(&["new", &path.to_string_lossy()]).done();
    let cargo = |arguments: &[&str]| {
        let mut cargo = std::process::Command::new("cargo");
        // The toolchain and target directory of these tests are not those of a user.
        cargo.args(arguments).current_dir(&path).env_remove("CARGO_TARGET_DIR");
        run(&mut cargo, b"").done()
    };
    let _ = cargo(&["test"]);
    let _ = cargo(&["build", "--release", "--target", "wasm32-wasip2"]);
    let module = path.join("target/wasm32-wasip2/release/first_task.wasm");
    let output = server.run(&["run", &module.to_string_lossy(), "--input", r#"{"name": "Ada"}"#]).done();
    assert_eq!(output.json()["greeting"], "Hello, Ada!");
}

/// A grey PNG, stored without compression.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let row = [&[0][..], &vec![0x80; width as usize]].concat();
    let rows = row.repeat(height as usize);
    let length = u16::try_from(rows.len()).expect("a small picture");
    let mut data = vec![0x78, 0x01, 1];
    data.extend(length.to_le_bytes());
    data.extend((!length).to_le_bytes());
    data.extend(&rows);
    let (a, b) = rows.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    data.extend((b << 16 | a).to_be_bytes());
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let chunks = [(&b"IHDR"[..], header), (b"IDAT", data), (b"IEND", Vec::new())];
    chunks.into_iter().fold(b"\x89PNG\r\n\x1a\n".to_vec(), |mut png, (kind, data)| {
        png.extend((data.len() as u32).to_be_bytes());
        let checked = [kind, &data].concat();
        png.extend(&checked);
        png.extend(crc32(&checked).to_be_bytes());
        png
    })
}

/// The CRC of the PNG specification, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
