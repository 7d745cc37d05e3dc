//! Sums the columns of a CSV file: a command in plain Rust, without the SDK.
//!
//! The file comes on stdin, with a header. Without arguments every column that holds only numbers
//! is summed; arguments name the columns to sum, and then a cell that is no number is an error. The
//! environment variable `SEPARATOR` replaces the comma of the output.

use std::io::{BufRead, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let columns: Vec<String> = std::env::args().skip(1).collect();
    let separator = std::env::var("SEPARATOR").unwrap_or_else(|_| ",".into());
    match sum(std::io::stdin().lock(), &columns) {
        Ok(sums) => {
            let lines: String = sums.iter().map(|(name, sum)| format!("{name}{separator}{sum}\n")).collect();
            match std::io::stdout().write_all(lines.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(message) => {
            eprintln!("csv-sum: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The sum of each wanted column, in the order of the file; of every all-number column when none is
/// wanted by name.
fn sum(file: impl BufRead, wanted: &[String]) -> Result<Vec<(String, f64)>, String> {
    let mut lines = file.lines();
    let header = lines.next().ok_or("there is no header: the input is empty")?;
    let names = cells(&header.map_err(|error| error.to_string())?);
    if let Some(missing) = wanted.iter().find(|column| !names.contains(column)) {
        return Err(format!("there is no column `{missing}`; the columns are {}", names.join(", ")));
    }
    // `None` once a cell was no number.
    let mut sums = vec![Some(0.0); names.len()];
    for (index, line) in lines.enumerate() {
        let line = line.map_err(|error| error.to_string())?;
        if line.trim().is_empty() {
            continue;
        }
        // The header is line 1.
        let line_number = index + 2;
        let row = cells(&line);
        if row.len() != names.len() {
            return Err(format!("line {line_number} has {} cells, but the header has {}", row.len(), names.len()));
        }
        for ((cell, sum), name) in row.iter().zip(&mut sums).zip(&names) {
            let number = cell.trim().parse::<f64>().ok();
            if number.is_none() && wanted.contains(name) {
                return Err(format!("line {line_number}, column `{name}`: `{cell}` is not a number"));
            }
            *sum = sum.zip(number).map(|(sum, number)| sum + number);
        }
    }
    let is_wanted = |name: &String| wanted.is_empty() || wanted.contains(name);
    let summed = names.into_iter().zip(sums).filter(|(name, _)| is_wanted(name));
    Ok(summed.filter_map(|(name, sum)| Some((name, sum?))).collect())
}

/// The cells of a line. Quotes may enclose a cell, and a doubled quote inside stands for one (RFC
/// 4180, section 2); a line break inside a cell is not supported.
fn cells(line: &str) -> Vec<String> {
    let mut cells = Vec::new();
    let mut cell = String::new();
    let mut is_quoted = false;
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => cell.extend(chars.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(std::mem::take(&mut cell)),
            _ => cell.push(char),
        }
    }
    cells.push(cell);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "item,price,count\r\n\"pen, blue\",1.50,2\n\nbook,20,1\n";

    fn sums(file: &str, wanted: &[&str]) -> Result<Vec<(String, f64)>, String> {
        sum(file.as_bytes(), &wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn columns_of_numbers_are_summed() {
        assert_eq!(sums(FILE, &[]), Ok(vec![("price".into(), 21.5), ("count".into(), 3.0)]));
        assert_eq!(sums(FILE, &["count"]), Ok(vec![("count".into(), 3.0)]));
    }

    #[test]
    fn quotes_enclose_a_cell() {
        assert_eq!(cells(r#""a, ""b""",c,,"#), [r#"a, "b""#, "c", "", ""]);
        assert_eq!(cells(""), [""]);
    }

    #[test]
    fn what_cannot_be_summed_is_named() {
        assert_eq!(sums(FILE, &["item"]), Err("line 2, column `item`: `pen, blue` is not a number".into()));
        assert_eq!(sums(FILE, &["x"]), Err("there is no column `x`; the columns are item, price, count".into()));
        assert_eq!(sums("a,b\n1\n", &[]), Err("line 2 has 1 cells, but the header has 2".into()));
        assert_eq!(sums("", &[]), Err("there is no header: the input is empty".into()));
    }
}
