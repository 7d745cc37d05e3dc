//! The common part of the tests of each pure package: what is banned in it has a reason.

/// Asserts that `clippy.toml` bans what a pure package must not reach, each with its reason.
pub(crate) fn assert_bans(bans: &str) {
    let banned: Vec<&str> = bans.lines().filter(|line| line.contains("path =")).collect();
    for name in ["HashMap", "Instant::now", "SystemTime", "env::var", "fs::", "net::", "thread::"] {
        assert!(banned.iter().any(|line| line.contains(name)), "{name} is not banned");
    }
    assert!(banned.iter().all(|line| line.contains("reason = ")));
}
