//! Shrinks a picture: PNG or JPEG on stdin, PNG on stdout.
//!
//! A command and not a task, because a picture and its options come separately: one on stdin, the
//! others as arguments. The same program works in a shell:
//! `thumbnail --width 160 < photo.jpg > small.png`.

use std::io::{Cursor, Read, Write};
use std::process::ExitCode;

use image::{ImageFormat, ImageReader};

const USAGE: &str = "usage: thumbnail [--width PIXELS] [--height PIXELS] < PICTURE > PNG";
/// The width and height that the result fits into unless asked otherwise.
const SIDE_DEFAULT: u32 = 160;

type Failure = Box<dyn std::error::Error>;

/// The frame that the result has to fit into; the proportions of the picture are kept.
#[derive(Debug, PartialEq)]
struct Frame {
    width: u32,
    height: u32,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("thumbnail: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let frame = parse(std::env::args().skip(1))?;
    let mut picture = Vec::new();
    std::io::stdin().read_to_end(&mut picture)?;
    std::io::stdout().write_all(&shrink(&picture, &frame)?)?;
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Frame, Failure> {
    let (mut width, mut height) = (None, None);
    while let Some(option) = arguments.next() {
        let side = match option.as_str() {
            "--width" => &mut width,
            "--height" => &mut height,
            _ => return Err(format!("unknown argument `{option}`; {USAGE}").into()),
        };
        let value = arguments.next().ok_or_else(|| format!("`{option}` needs a number; {USAGE}"))?;
        let pixels = value.parse().ok().filter(|pixels| *pixels > 0);
        *side = Some(pixels.ok_or_else(|| format!("`{option} {value}` is not a number of pixels"))?);
    }
    Ok(match (width, height) {
        (None, None) => Frame { width: SIDE_DEFAULT, height: SIDE_DEFAULT },
        // The side that was not given does not limit.
        (width, height) => Frame { width: width.unwrap_or(u32::MAX), height: height.unwrap_or(u32::MAX) },
    })
}

/// The picture as a PNG that fits into the frame. A picture that already does is not enlarged.
fn shrink(picture: &[u8], frame: &Frame) -> Result<Vec<u8>, Failure> {
    let reader = ImageReader::new(Cursor::new(picture)).with_guessed_format()?;
    if reader.format().is_none() {
        return Err(format!("the {} bytes on stdin are neither PNG nor JPEG", picture.len()).into());
    }
    let mut picture = reader.decode()?;
    if picture.width() > frame.width || picture.height() > frame.height {
        picture = picture.thumbnail(frame.width, frame.height);
    }
    eprintln!("thumbnail: {} x {} pixels", picture.width(), picture.height());
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, RgbImage};

    use super::*;

    fn gradient(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 128])
        });
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(picture).write_to(&mut bytes, format).expect("memory takes every picture");
        bytes.into_inner()
    }

    fn size_of(png: &[u8]) -> (u32, u32) {
        let picture = image::load_from_memory_with_format(png, ImageFormat::Png).expect("the result is a PNG");
        (picture.width(), picture.height())
    }

    fn frame(arguments: &[&str]) -> Result<Frame, String> {
        parse(arguments.iter().map(|argument| (*argument).to_owned())).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_result_fits_and_keeps_its_proportions() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let picture = gradient(400, 200, format);
            let png = shrink(&picture, &Frame { width: 100, height: 100 }).expect("the picture is good");
            assert_eq!(size_of(&png), (100, 50), "{format:?}");
        }
    }

    #[test]
    fn one_side_is_enough_and_nothing_is_enlarged() {
        let picture = gradient(40, 20, ImageFormat::Png);
        let narrow = shrink(&picture, &frame(&["--width", "10"]).expect("good")).expect("the picture is good");
        assert_eq!(size_of(&narrow), (10, 5));
        let wide = shrink(&picture, &frame(&["--width", "100"]).expect("good")).expect("the picture is good");
        assert_eq!(size_of(&wide), (40, 20));
    }

    #[test]
    fn wrong_arguments_are_named() {
        assert_eq!(frame(&[]), Ok(Frame { width: 160, height: 160 }));
        assert_eq!(frame(&["--width", "0"]), Err("`--width 0` is not a number of pixels".into()));
        assert!(frame(&["--depth", "3"]).is_err_and(|message| message.starts_with("unknown argument `--depth`")));
        assert!(frame(&["--height"]).is_err_and(|message| message.starts_with("`--height` needs a number")));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let failure = shrink(b"hello", &Frame { width: 1, height: 1 }).expect_err("a word is no picture");
        assert_eq!(failure.to_string(), "the 5 bytes on stdin are neither PNG nor JPEG");
    }
}
