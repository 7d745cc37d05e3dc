//! Input made by a program, so that nothing large is kept in the repository.

use std::fmt::Write as _;

/// A text of at least `bytes_min` bytes in ASCII, and how many words it has.
pub(crate) fn text(bytes_min: usize) -> (String, u64) {
    const WORDS: [&str; 16] = [
        "mill", "grain", "the", "water", "turns", "a", "wheel", "of", "stone", "and", "flour", "falls", "into",
        "sacks", "until", "evening",
    ];
    const WORDS_PER_LINE: u64 = 12;
    let mut text = String::with_capacity(bytes_min + 100);
    let mut words = 0;
    let mut draw: u32 = 1;
    while text.len() < bytes_min {
        // A linear congruential generator (Numerical Recipes, 3rd edition, section 7.1): the same
        // text on every machine.
        draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(WORDS[(draw >> 28) as usize]);
        words += 1;
        if words % WORDS_PER_LINE == 0 {
            // Numbers are words too: they make for many distinct ones.
            let _ = writeln!(text, " {}.", draw >> 12);
            words += 1;
        } else {
            text.push(' ');
        }
    }
    (text, words)
}

/// A PNG with 8-bit RGB pixels: a colour gradient under rings. It is stored without compression.
pub(crate) fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut rows = Vec::with_capacity((height * (width * 3 + 1)) as usize);
    for y in 0..height {
        // Every row begins with its filter: none.
        rows.push(0);
        for x in 0..width {
            let (dx, dy) = (i64::from(x) - i64::from(width / 2), i64::from(y) - i64::from(height / 2));
            let ring = ((dx * dx + dy * dy) / 20_000) as u8;
            rows.extend([(x * 255 / width) as u8, (y * 255 / height) as u8, ring]);
        }
    }
    let mut png = PNG_SIGNATURE.to_vec();
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    // Eight bits, RGB, and the only methods that there are for compression, filter and interlace.
    header.extend([8, 2, 0, 0, 0]);
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"IDAT", &zlib_stored(&rows));
    chunk(&mut png, b"IEND", &[]);
    png
}

/// Width and height of a PNG; `None` when it is none.
pub(crate) fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    let header = png.strip_prefix(&PNG_SIGNATURE)?.get(4..)?.strip_prefix(b"IHDR")?;
    let number = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    Some((number(0)?, number(4)?))
}

const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// Appends a chunk as the PNG specification (third edition, section 5.3) lays it out.
fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("our pictures are far below 4 GiB");
    png.extend(length.to_be_bytes());
    let start = png.len();
    png.extend(kind);
    png.extend(data);
    let crc = crc32(&png[start..]);
    png.extend(crc.to_be_bytes());
}

/// Wraps bytes as RFC 1950 and, in stored blocks, RFC 1951 say.
fn zlib_stored(bytes: &[u8]) -> Vec<u8> {
    const BLOCK_BYTES_MAX: usize = 65_535;
    let mut stream = vec![0x78, 0x01];
    let blocks = bytes.len().div_ceil(BLOCK_BYTES_MAX);
    for (number, block) in bytes.chunks(BLOCK_BYTES_MAX).enumerate() {
        let length = block.len() as u16;
        stream.push(u8::from(number + 1 == blocks));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(bytes).to_be_bytes());
    stream
}

/// RFC 1950, section 8.2.
fn adler32(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % MODULUS;
        b = (b + a) % MODULUS;
    }
    b << 16 | a
}

/// The CRC of the PNG specification, annex D, a table entry for each byte.
fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256_u32)
        .map(|index| (0..8).fold(index, |crc, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 }))
        .collect();
    !bytes.iter().fold(!0, |crc, byte| table[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_as_many_words_as_it_says() {
        let (text, words) = text(10_000);
        assert!(text.len() >= 10_000);
        assert_eq!(text.split_whitespace().count() as u64, words);
    }

    #[test]
    fn checksums_agree_with_their_specifications() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b"IEND"), 0xAE42_6082);
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
    }

    #[test]
    fn the_picture_has_its_size() {
        let png = picture(200, 150);
        assert_eq!(png_size(&png), Some((200, 150)));
        assert!(png.len() > 200 * 150 * 3);
        assert_eq!(png_size(b"GIF89a"), None);
    }
}
