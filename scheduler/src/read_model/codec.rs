//! Values inside the rows: MessagePack without field names.

use rusqlite::types::Type;
use rusqlite::{Error, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmill_protocol::{LogSeq, TaskId, Timestamp};

use super::fold::Standing;
use super::store::state_of;

/// The bytes of a value.
pub(super) fn encode<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    bytes.clear();
    if let Err(error) = rmp_serde::encode::write(bytes, value) {
        unreachable!("the types of a row are always encodable: {error}");
    }
}

/// Reads what [`encode`] wrote from a column.
pub(super) fn decode<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let bytes = row.get_ref(column)?.as_blob()?;
    rmp_serde::from_slice(bytes).map_err(|error| Error::FromSqlConversionFailure(column, Type::Blob, error.into()))
}

/// The columns that [`standing`] reads, in its order.
pub(super) const STANDING_COLUMNS: &str = "state, created, updated, finished, seq, view";

/// Reads [`STANDING_COLUMNS`], which begin at `first`.
pub(super) fn standing(row: &Row<'_>, first: usize) -> rusqlite::Result<Standing> {
    let number = row.get(first)?;
    let state = state_of(number).ok_or(Error::IntegralValueOutOfRange(first, number))?;
    Ok(Standing {
        state,
        created_at: time(row.get(first + 1)?),
        updated_at: time(row.get(first + 2)?),
        finished_at: row.get::<_, Option<i64>>(first + 3)?.map(time),
        seq: LogSeq(row.get::<_, i64>(first + 4)?.cast_unsigned()),
        view: decode(row, first + 5)?,
    })
}

/// SQLite's integers are signed; every time that is ever reached fits.
pub(super) fn time_number(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn time(number: i64) -> Timestamp {
    Timestamp(number.cast_unsigned())
}

/// How a task's id is stored.
pub(super) fn id_bytes(id: &TaskId) -> &[u8] {
    id.0.as_bytes()
}
