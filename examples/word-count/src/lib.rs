//! Counts the words of a text: bytes in, JSON out, with progress.

use std::collections::HashMap;

use serde::Serialize;
use wasmill_guest::{Context, Error, task};

/// How many of the most frequent words are reported.
const TOP_MAX: usize = 20;
/// How many lines pass between two reports of progress.
const LINES_PER_PROGRESS: usize = 4096;

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    words: u64,
    distinct: usize,
    /// The most frequent first; equally frequent ones in alphabetical order.
    top: Vec<Frequency>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Frequency {
    word: String,
    count: u64,
}

#[task]
fn word_count(ctx: &Context, text: Vec<u8>) -> Result<Output, Error> {
    let text = String::from_utf8(text)
        .map_err(|error| Error::reject(format_args!("the text is not UTF-8: {}", error.utf8_error())))?;
    let counts = count(&text, |done| ctx.progress(done as u64, text.len() as u64, "bytes read"));

    let words = counts.values().sum();
    let distinct = counts.len();
    let mut top: Vec<_> = counts.into_iter().map(|(word, count)| Frequency { word, count }).collect();
    top.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word)));
    top.truncate(TOP_MAX);
    Ok(Output { words, distinct, top })
}

/// How often each word occurs, in lower case. A word is letters and digits, with apostrophes inside
/// of it.
fn count(text: &str, progress: impl Fn(usize)) -> HashMap<String, u64> {
    let mut counts = HashMap::<String, u64>::new();
    let mut bytes_done = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let lower = line.to_lowercase();
        let words = lower.split(|char: char| !char.is_alphanumeric() && char != '\'' && char != '’');
        for word in words.map(|word| word.trim_matches(['\'', '’'])).filter(|word| !word.is_empty()) {
            // Most words were seen before: only a new one is worth an allocation.
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.into(), 1)),
            }
        }
        bytes_done += line.len();
        if number % LINES_PER_PROGRESS == 0 {
            progress(bytes_done);
        }
    }
    progress(bytes_done);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_words_come_first() {
        let ctx = Context::for_test().build();
        let text = "It was the best of times,\nit was the worst of 'times'. Don't! don’t; DON'T\n";
        let output = word_count(&ctx, text.into()).expect("the text is good");
        assert_eq!((output.words, output.distinct), (15, 9));
        let top: Vec<_> = output.top.iter().map(|entry| (entry.word.as_str(), entry.count)).collect();
        assert_eq!(top[..4], [("don't", 2), ("it", 2), ("of", 2), ("the", 2)]);
        assert_eq!(ctx.recorded().progress.last().map(|progress| progress.done), Some(text.len() as u64));
    }

    #[test]
    fn no_text_has_no_words() {
        let output = word_count(&Context::for_test().build(), Vec::new());
        assert_eq!(output, Ok(Output { words: 0, distinct: 0, top: Vec::new() }));
    }

    #[test]
    fn what_is_no_text_is_rejected() {
        let error = word_count(&Context::for_test().build(), vec![b'a', 0xFF]).expect_err("0xFF is never UTF-8");
        assert!(!error.is_retryable());
        assert!(error.message().contains("from index 1"), "{error}");
    }
}
