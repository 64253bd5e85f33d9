//! Sealed records in an embedded database, behind a narrow door: `commit` a batch, read `all`.
//!
//! A stored value is a schema byte in clear, a random nonce of 24 bytes, and the value under XChaCha20-Poly1305 with a key
//! derived from the storage key; table and key are authenticated with it, so that no value can be moved to another place.

use core::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use protocol_core::crypto::kdf::expand;
use protocol_core::crypto::labels::Label;
use protocol_core::crypto::secret::Secret;
use redb::{Builder, Database, ReadableDatabase as _, TableDefinition, TableError};

use crate::files::FileFault;
use crate::private::{self, Private, Replace};

/// The key that seals records, below the storage key.
const RECORDS: Label = Label { prefix: "kin-id/1 ", name: "stored records" };
/// The form of a stored value.
const SCHEMA: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
/// The database's own default is 1 GiB.
const CACHE_BYTES: usize = 8 << 20;

/// One change of a batch.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// The kind of record.
    pub table: u8,
    /// Which one.
    pub key: Vec<u8>,
    /// What it is now; `None` removes it.
    pub value: Option<Vec<u8>>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.value.is_some() { "[redacted]" } else { "removed" };
        f.debug_struct("Change").field("table", &self.table).field("key", &self.key).field("value", &value).finish()
    }
}

/// Why records could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another process has it open.
    Busy,
    /// The file is a link or no regular file, belongs to another user, or others may read it.
    Unsafe,
    /// The file is damaged. It is left as it is.
    Damaged,
    /// A record was not sealed by this identity at this place: another device's file, or a damaged one. It is left as it is.
    Forged,
    /// A record of a form that this program does not know.
    UnknownSchema(u8),
    /// The system's random source failed.
    NoEntropy,
    /// A file operation failed.
    File(FileFault),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("another process has the records open"),
            Self::Unsafe => f.write_str("the records must be a regular file of yours with mode 0600"),
            Self::Damaged => f.write_str("the records are damaged; the file is kept as it is"),
            Self::Forged => f.write_str("the records are damaged or belong to another identity; the file is kept as it is"),
            Self::UnknownSchema(schema) => write!(f, "the records have form {schema}, which this version does not know"),
            Self::NoEntropy => f.write_str("the system's random source failed"),
            Self::File(fault) => write!(f, "{fault}"),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<FileFault> for StoreError {
    fn from(fault: FileFault) -> Self {
        Self::File(fault)
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::Busy,
            redb::Error::Io(error) if error.raw_os_error().is_some() => Self::File(error.into()),
            redb::Error::UpgradeRequired(version) => Self::UnknownSchema(version),
            // What else the database reports is about the bytes it read.
            _ => Self::Damaged,
        }
    }
}

/// A record as it is read: table, key, value.
pub type Record = (u8, Vec<u8>, Vec<u8>);

/// The records of a device.
pub struct Store {
    path: PathBuf,
    key: Secret,
    /// Closed after an error, and opened again by the next call: a database that failed is not asked again.
    database: Mutex<Option<Database>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the records at `path`, or makes an empty file (mode 0600) where there is none.
    ///
    /// # Errors
    /// See [`StoreError`]. A file that exists is never replaced, an empty or damaged one neither.
    pub fn open(path: &Path, storage_key: &Secret) -> Result<Self, StoreError> {
        let database = open_database(path)?;
        Ok(Self { path: path.to_path_buf(), key: expand(storage_key, RECORDS, &[]), database: Mutex::new(Some(database)) })
    }

    /// Applies a batch: all of it is durable when this returns, or, after an error, none or all of it.
    ///
    /// # Errors
    /// See [`StoreError`]. The file is opened anew by the next call.
    pub fn commit(&self, batch: &[Change]) -> Result<(), StoreError> {
        self.write(&mut batch.iter())
    }

    /// Applies several batches in one transaction, in order.
    ///
    /// # Errors
    /// Those of [`Self::commit`], for all batches together.
    // HOST-3.
    pub fn commit_all(&self, batches: &[Vec<Change>]) -> Result<(), StoreError> {
        self.write(&mut batches.iter().flatten())
    }

    /// All records, ordered by table and key.
    ///
    /// # Errors
    /// See [`StoreError`]; one record that cannot be opened fails the whole.
    pub fn all(&self) -> Result<Vec<Record>, StoreError> {
        self.with(|database| {
            let mut records = Vec::new();
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            for table in 0..=u8::MAX {
                let name = table_name(table);
                let opened = match transaction.open_table(definition(&name)) {
                    Err(TableError::TableDoesNotExist(_)) => continue,
                    answer => answer.map_err(redb::Error::from)?,
                };
                for row in opened.range::<&[u8]>(..).map_err(redb::Error::from)? {
                    let (key, value) = row.map_err(redb::Error::from)?;
                    let value = self.unseal(table, key.value(), value.value())?;
                    records.push((table, key.value().to_vec(), value));
                }
            }
            Ok(records)
        })
    }

    fn write(&self, changes: &mut dyn Iterator<Item = &Change>) -> Result<(), StoreError> {
        self.with(|database| {
            let mut transaction = database.begin_write().map_err(redb::Error::from)?;
            transaction.set_two_phase_commit(true);
            for change in changes {
                let name = table_name(change.table);
                let mut table = transaction.open_table(definition(&name)).map_err(redb::Error::from)?;
                match &change.value {
                    Some(value) => {
                        let sealed = self.seal(change.table, &change.key, value)?;
                        table.insert(change.key.as_slice(), sealed.as_slice()).map_err(redb::Error::from)?;
                    }
                    None => {
                        table.remove(change.key.as_slice()).map_err(redb::Error::from)?;
                    }
                }
            }
            Ok(transaction.commit().map_err(redb::Error::from)?)
        })
    }

    /// Calls `operation` with the open database. A damaged file may make the database panic: that is caught here.
    fn with<T>(&self, operation: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut place = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match place.take() {
            Some(database) => database,
            None => open_existing(&self.path)?,
        };
        let outcome = guard(|| operation(&database));
        match outcome {
            Ok(_) => *place = Some(database),
            Err(_) => close(database),
        }
        outcome
    }

    fn seal(&self, table: u8, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| StoreError::NoEntropy)?;
        let mut sealed = Vec::with_capacity(1 + NONCE + value.len() + TAG);
        sealed.push(SCHEMA);
        sealed.extend(nonce);
        sealed.extend(value);
        let text = sealed.get_mut(1 + NONCE..).unwrap_or_default();
        let tag = self
            .cipher()
            .encrypt_inout_detached(&XNonce::from(nonce), &place(table, key), text.into())
            .map_err(|_| StoreError::File(FileFault::Unsafe))?;
        sealed.extend(tag);
        Ok(sealed)
    }

    // HOST-2.
    fn unseal(&self, table: u8, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (schema, rest) = sealed.split_first().ok_or(StoreError::Damaged)?;
        if *schema != SCHEMA {
            return Err(StoreError::UnknownSchema(*schema));
        }
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(StoreError::Damaged)?;
        let (text, tag) = rest.split_last_chunk::<TAG>().ok_or(StoreError::Damaged)?;
        let mut value = text.to_vec();
        self.cipher()
            .decrypt_inout_detached(&XNonce::from(*nonce), &place(table, key), value.as_mut_slice().into(), &Tag::from(*tag))
            .map_err(|_| StoreError::Forged)?;
        Ok(value)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.key.bytes().into())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(database) = self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            close(database);
        }
    }
}

/// Closing writes too, and on a damaged file it may panic as everything else.
fn close(database: Database) {
    guard(move || {
        drop(database);
        Ok(())
    })
    .ok();
}

/// What a value is bound to.
fn place(table: u8, key: &[u8]) -> Vec<u8> {
    [&[SCHEMA, table], key].concat()
}

fn table_name(table: u8) -> String {
    format!("{table}")
}

const fn definition(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// Turns a panic of the database into an error.
fn guard<T>(operation: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or(Err(StoreError::Damaged))
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    match private::open(path)? {
        Private::Missing => {
            create_database(path)?;
            open_existing(path)
        }
        Private::Unsafe => Err(StoreError::Unsafe),
        Private::File(file) => load(file),
    }
}

fn open_existing(path: &Path) -> Result<Database, StoreError> {
    match private::open(path)? {
        Private::Missing => Err(StoreError::File(FileFault::NotFound)),
        Private::Unsafe => Err(StoreError::Unsafe),
        Private::File(file) => load(file),
    }
}

/// An empty file would be taken for a new one by the database; for us it is a damaged one.
fn load(file: File) -> Result<Database, StoreError> {
    if file.metadata().map_err(FileFault::from)?.len() == 0 {
        return Err(StoreError::Damaged);
    }
    build(file)
}

fn build(file: File) -> Result<Database, StoreError> {
    guard(|| Ok(Builder::new().set_cache_size(CACHE_BYTES).create_file(file).map_err(redb::Error::from)?))
}

/// Made under another name: a crash in the middle leaves no half of a database under the right one.
fn create_database(path: &Path) -> Result<(), StoreError> {
    let temporary = path.with_extension("new");
    let file = private::create(&temporary)?;
    let handle = file.try_clone().map_err(FileFault::from)?;
    drop(build(file)?);
    handle.sync_all().map_err(FileFault::from)?;
    Ok(private::rename(&temporary, path, Replace::No)?)
}

#[cfg(test)]
mod tests;
