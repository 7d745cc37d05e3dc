//! The boundary is the list of dependencies: no runtime, no network, no disk, no randomness.

#[test]
fn a_model_depends_on_no_runtime() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, after) = manifest.split_once("[dependencies]").unwrap();
    let (dependencies, _) = after.split_once('[').unwrap();
    let names: Vec<_> = dependencies.lines().filter_map(|line| line.split(['.', ' ']).next()).collect();
    let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
    assert_eq!(names, ["wasmill-protocol", "bytes", "thiserror"]);
}

#[test]
fn what_is_banned_has_a_reason() {
    let bans = include_str!("../../clippy.toml");
    let banned: Vec<&str> = bans.lines().filter(|line| line.contains("path =")).collect();
    for name in ["HashMap", "Instant::now", "SystemTime", "env::var", "fs::", "net::", "thread::"] {
        assert!(banned.iter().any(|line| line.contains(name)), "{name} is not banned");
    }
    assert!(banned.iter().all(|line| line.contains("reason = ")));
}
