//! Text that other people wrote, where it is shown to somebody.

/// Whether a character changes how a terminal shows what is around it, or shows as nothing: control
/// characters, those of Unicode's category `Cf` (overrides and isolates of the direction,
/// zero-width ones, tags) and others that are never seen. Two names that differ only in such
/// characters look the same.
///
/// Selectors of an emoji's presentation (U+FE0E, U+FE0F) are not among them: they change nothing
/// but the emoji.
pub fn steers(c: char) -> bool {
    c.is_control() || (!c.is_ascii() && UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c)))
}

/// Text of others on one line: what [`steers`] is shown as `?`, line breaks and other white space
/// as blanks.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_whitespace() { ' ' } else { seen(c) };
    text.chars().map(shown).collect()
}

/// Text of ours, on as many lines as it has, into which text of others may have come: what
/// [`steers`] is shown as `?`.
pub fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { seen(c) }).collect()
}

fn seen(c: char) -> char {
    if steers(c) { '?' } else { c }
}

/// Unicode 17: category `Cf`, and what has the property `Default_Ignorable_Code_Point` beside it.
const UNSEEN: [(char, char); 25] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0d}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c30_nothing_of_others_steers_what_is_shown() {
        assert_eq!(printable("a\u{1b}[31mred\r\n\tb"), "a?[31mred   b");
        assert_eq!(printable("evil\u{202e}gnp.exe\u{200b}\u{2066}x"), "evil?gnp.exe??x");
        // Overrides, isolates and marks of direction; joiners and what has no width; tags; line
        // separators; C1; fillers; selectors.
        for steering in [
            '\u{202a}',
            '\u{202b}',
            '\u{202c}',
            '\u{202d}',
            '\u{2067}',
            '\u{2068}',
            '\u{2069}',
            '\u{200e}',
            '\u{200f}',
            '\u{61c}',
            '\u{200c}',
            '\u{200d}',
            '\u{2060}',
            '\u{feff}',
            '\u{ad}',
            '\u{180e}',
            '\u{206a}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{9b}',
            '\u{7f}',
            '\u{0}',
            '\u{3164}',
            '\u{fe00}',
            '\u{e0100}',
            '\u{fff9}',
        ] {
            assert_eq!(printable(&format!("a{steering}b")), "a?b", "U+{:04X}", u32::from(steering));
        }
        assert_eq!(printable("a\u{2028}b\u{2029}c\u{85}d\u{a0}e"), "a b c d e");
    }

    #[test]
    fn letters_and_signs_of_any_script_are_shown() {
        let text = "größer Ελλάδα עברית العربية हिन्दी ไทย 日本語 한국어 👍🏽 ❤\u{fe0f} e\u{301} ½ € “quoted”";
        assert_eq!(printable(text), text);
    }

    #[test]
    fn lines_of_ours_stay_lines() {
        assert_eq!(printable_lines("error: a\u{202e}b\n  caused by: \u{1b}c"), "error: a?b\n  caused by: ?c");
    }
}
