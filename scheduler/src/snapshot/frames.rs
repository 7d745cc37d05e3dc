//! Parts behind their lengths.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use wasmill_record::snapshot::Part;

/// More bytes than any part has; a length beyond this is damage.
const PART_BYTES_MAX: u32 = 1 << 30;

/// A part as it is stored.
pub(super) fn encode(part: &Part) -> Bytes {
    let bytes = part.encode();
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= PART_BYTES_MAX);
    let mut frame = BytesMut::with_capacity(size_of::<u32>() + bytes.len());
    frame.put_u32_le(length.expect("a part holds a bounded number of rows, and each row is small"));
    frame.put(bytes);
    frame.freeze()
}

/// The bytes of the next part; `None` at the end.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; size_of::<u32>()];
    // Nothing at all is the end, a part of a length is damage.
    match from.read(&mut length).await? {
        0 => return Ok(None),
        read => from.read_exact(&mut length[read..]).await?,
    };
    let length = u32::from_le_bytes(length);
    if length > PART_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    // The length may be wrong: what is not there is not made room for.
    if from.take(length.into()).read_to_end(&mut bytes).await? < length as usize {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_are_read_as_they_were_written() {
        let parts = [Part::End { parts: 1 }, Part::Tasks(Box::default())];
        let written: Vec<u8> = parts.iter().flat_map(encode).collect();
        let mut from = &written[..];
        for part in &parts {
            let bytes = read(&mut from).await.unwrap().unwrap();
            assert_eq!(Part::decode(&bytes).unwrap(), *part);
        }
        assert_eq!(read(&mut from).await.unwrap(), None);
        for cut in [1, 3, 4, 5, written.len() - 1] {
            let mut from = &written[..cut];
            let error = loop {
                match read(&mut from).await {
                    Ok(part) => assert!(part.is_some(), "cut at {cut}"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
        assert!(read(&mut &[0xff_u8; 9][..]).await.is_err());
    }
}
