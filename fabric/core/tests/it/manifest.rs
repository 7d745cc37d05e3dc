//! The boundary is the list of dependencies: no runtime, no network, no disk.

#[test]
fn a_pure_crate_depends_on_pure_crates_alone() {
    let manifest = include_str!("../../Cargo.toml");
    let mut section = "";
    let mut dependencies = Vec::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if section == "dependencies"
            && let Some((name, _)) = line.split_once(['.', ' ', '='])
        {
            dependencies.push(name);
        }
        assert!(!section.starts_with("target.") && section != "build-dependencies", "unexpected section `{section}`");
    }
    assert_eq!(dependencies, ["wasmill-protocol", "bytes", "thiserror"]);
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
