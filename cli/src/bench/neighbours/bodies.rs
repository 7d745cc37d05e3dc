//! Bodies that attackers send.

use std::fmt::Write as _;

use bytes::Bytes;

/// Tasks of the three profiles that an upload does not compile, `count` in all.
pub(super) fn of_every_profile(digest: &str, count: usize) -> String {
    let profiles = [
        r#""limits":{"cpu_ms":1,"wall_ms":1000,"memory_bytes":1048576,"fuel":1000}"#,
        r#""limits":{"cpu_ms":1,"wall_ms":1000,"memory_bytes":1048576},"deterministic":true"#,
        r#""limits":{"cpu_ms":1,"wall_ms":1000,"memory_bytes":1048576,"fuel":1000},"deterministic":true"#,
    ];
    let mut text = String::new();
    for profile in profiles.iter().cycle().take(count) {
        // Writing to a text cannot fail.
        let _ = writeln!(text, r#"{{"module":"{digest}",{profile}}}"#);
    }
    text
}

/// Tasks that wait for an hour, each nearly as large as one may be inline.
pub(super) fn large_tasks(digest: &str, count: usize) -> Bytes {
    let (input, argument) = ("x".repeat(32_000), "y".repeat(15_000));
    let line =
        format!(r#"{{"module":"{digest}","delay_ms":3600000,"input_text":"{input}","env":{{"A":"{argument}"}}}}"#);
    format!("{line}\n").repeat(count).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_document() {
        let texts = [of_every_profile("d", 6), String::from_utf8(large_tasks("d", 2).to_vec()).unwrap()];
        for line in texts.iter().flat_map(|text| text.lines()) {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert_eq!(texts[0].lines().count(), 6);
    }
}
