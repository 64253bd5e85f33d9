//! The home of a device: its identity seed, settings, a snapshot for read-only programs, and what has to be swept after a
//! crash. One process at a time holds it.

use core::fmt;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use protocol_core::crypto::secret::Secret;
use protocol_core::ids::TransferId;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, stat, unlinkat};
use zeroize::Zeroize as _;

use crate::files::FileFault;
use crate::private::{self, Private, Replace};

/// The longest settings file, list of a pending transfer, and snapshot that are read, in bytes.
const LONGEST_SETTINGS: usize = 64 << 10;
const LONGEST_PENDING: usize = 64 << 20;
const LONGEST_SNAPSHOT: usize = 64 << 20;

/// Why a home cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomeError {
    /// Another process holds it.
    Locked(PathBuf),
    /// The directory is none, or everybody may write to it.
    UnsafeDirectory(PathBuf),
    /// The seed file is a link or no regular file, belongs to another user, or others may read it.
    SeedUnsafe(PathBuf),
    /// The seed file has not 32 bytes. Nothing replaces it: it may be the only copy.
    SeedDamaged(PathBuf),
    /// There are records but no seed: a new identity could not open them.
    SeedMissing(PathBuf),
    /// A file of the home that is not what we wrote.
    Damaged(PathBuf),
    /// A setting that cannot be stored: a name with control characters, for example.
    BadSetting,
    /// The system's random source failed.
    NoEntropy,
    /// A file operation failed.
    File(PathBuf, FileFault),
}

impl fmt::Display for HomeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(home) => {
                write!(f, "another process uses {}: end it first, or choose another directory with --home", home.display())
            }
            Self::UnsafeDirectory(home) => write!(f, "{} is no directory, or everybody may write to it", home.display()),
            Self::SeedUnsafe(seed) => write!(f, "{} must be a regular file of yours with mode 0600", seed.display()),
            Self::SeedDamaged(seed) => write!(f, "{} is damaged: an identity has 32 bytes; restore it from a copy", seed.display()),
            Self::SeedMissing(seed) => write!(f, "{} is missing, but its records are there; restore it from a copy", seed.display()),
            Self::Damaged(file) => write!(f, "{} is damaged", file.display()),
            Self::BadSetting => f.write_str("a setting must be one line without control characters"),
            Self::NoEntropy => f.write_str("the system's random source failed"),
            Self::File(path, fault) => write!(f, "{}: {fault}", path.display()),
        }
    }
}

impl core::error::Error for HomeError {}

/// What a device remembers beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The name that the user gave the device.
    pub name: Option<String>,
    /// The port first bound, by transport.
    pub ports: BTreeMap<String, u16>,
}

impl Settings {
    /// One `key value` a line, so that people can read and correct it.
    fn to_text(&self) -> Result<String, HomeError> {
        let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if self.name.as_ref().is_some_and(|name| name.chars().any(char::is_control)) || !self.ports.keys().all(|key| word(key)) {
            return Err(HomeError::BadSetting);
        }
        let name = self.name.iter().map(|name| format!("name {name}\n"));
        Ok(name.chain(self.ports.iter().map(|(transport, port)| format!("port {transport} {port}\n"))).collect())
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut settings = Self::default();
        for line in text.lines() {
            match line.split_once(' ')? {
                ("name", name) => settings.name = Some(name.to_owned()),
                ("port", rest) => {
                    let (transport, port) = rest.split_once(' ')?;
                    settings.ports.insert(transport.to_owned(), port.parse().ok()?);
                }
                _ => return None,
            }
        }
        Some(settings)
    }
}

/// An open home. The lock is held until this is dropped.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    seed: Secret,
    created: bool,
    _lock: File,
}

impl Home {
    /// Opens the home at `path`, and makes directory and identity if they do not exist.
    ///
    /// # Errors
    /// See [`HomeError`]. A seed that exists is never replaced.
    pub fn open(path: &Path) -> Result<Self, HomeError> {
        let failed = |fault: FileFault| HomeError::File(path.to_path_buf(), fault);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => HomeError::UnsafeDirectory(path.to_path_buf()),
            _ => failed(error.into()),
        })?;
        let seen = stat(path).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(seen.st_mode) != FileType::Directory || seen.st_mode & 0o002 != 0 {
            return Err(HomeError::UnsafeDirectory(path.to_path_buf()));
        }
        let lock = lock(path)?;
        let (seed, created) = load_seed(path)?;
        Ok(Self { path: path.to_path_buf(), seed, created, _lock: lock })
    }

    /// The master seed of the identity.
    pub fn seed(&self) -> &Secret {
        &self.seed
    }

    /// Whether the identity was made by this `open`.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the records are, for [`crate::store::Store::open`].
    pub fn store_path(&self) -> PathBuf {
        self.path.join(RECORDS)
    }

    /// Reads the settings; none were written: the default.
    ///
    /// # Errors
    /// [`HomeError::Damaged`] if the file is not ours or cannot be parsed; it stays as it is.
    pub fn settings(&self) -> Result<Settings, HomeError> {
        let path = self.path.join(SETTINGS);
        let Some(bytes) = read_private(&path, LONGEST_SETTINGS)? else { return Ok(Settings::default()) };
        String::from_utf8(bytes).ok().and_then(|text| Settings::from_text(&text)).ok_or(HomeError::Damaged(path))
    }

    /// Replaces the settings.
    ///
    /// # Errors
    /// [`HomeError::BadSetting`], or a fault of the file system; the old ones are then kept.
    pub fn write_settings(&self, settings: &Settings) -> Result<(), HomeError> {
        self.write(SETTINGS, settings.to_text()?.as_bytes())
    }

    /// Replaces the snapshot: what read-only programs show while another process holds the home. No secrets belong there.
    ///
    /// # Errors
    /// A fault of the file system; the old one is then kept.
    // HOST-5.
    pub fn write_snapshot(&self, bytes: &[u8]) -> Result<(), HomeError> {
        self.write(SNAPSHOT, bytes)
    }

    /// The transfers that may have left temporary files.
    pub fn pending(&self) -> PendingDirs {
        PendingDirs { path: self.path.join(PENDING) }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let path = self.path.join(name);
        private::write(&path, bytes, Replace::Yes).map_err(|fault| HomeError::File(path, fault))
    }
}

const LOCK: &str = "lock";
const SEED: &str = "seed";
const RECORDS: &str = "records.redb";
const SETTINGS: &str = "settings";
const SNAPSHOT: &str = "snapshot.json";
const PENDING: &str = "pending";

/// Reads the snapshot of a home without taking its lock. `None`: there is none yet.
///
/// # Errors
/// [`HomeError::Damaged`] if it is a link, another user's or too long; faults of the file system.
pub fn read_snapshot(home: &Path) -> Result<Option<Vec<u8>>, HomeError> {
    read_private(&home.join(SNAPSHOT), LONGEST_SNAPSHOT)
}

// HOST-4.
fn lock(home: &Path) -> Result<File, HomeError> {
    let path = home.join(LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| HomeError::File(path.clone(), error.into()))?;
    let file = File::from(file);
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HomeError::Locked(home.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(HomeError::File(path, error.into())),
    }
}

/// The seed, and whether it was made now.
// HOST-1.
fn load_seed(home: &Path) -> Result<(Secret, bool), HomeError> {
    let path = home.join(SEED);
    let failed = |fault| HomeError::File(path.clone(), fault);
    match private::open(&path).map_err(failed)? {
        Private::Unsafe => Err(HomeError::SeedUnsafe(path)),
        Private::File(file) => read_seed(&file).map_err(failed)?.map(|seed| (seed, false)).ok_or(HomeError::SeedDamaged(path)),
        Private::Missing if home.join(RECORDS).symlink_metadata().is_ok() => Err(HomeError::SeedMissing(path)),
        Private::Missing => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|_| HomeError::NoEntropy)?;
            let written = private::write(&path, &bytes, Replace::No);
            let seed = Secret::new(bytes);
            bytes.zeroize();
            written.map_err(failed)?;
            Ok((seed, true))
        }
    }
}

/// `None` if the file has not exactly 32 bytes.
fn read_seed(file: &File) -> Result<Option<Secret>, FileFault> {
    use std::os::unix::fs::FileExt as _;
    if file.metadata()?.len() != 32 {
        return Ok(None);
    }
    let mut bytes = [0; 32];
    let read = file.read_exact_at(&mut bytes, 0);
    let seed = Secret::new(bytes);
    bytes.zeroize();
    read?;
    Ok(Some(seed))
}

fn read_private(path: &Path, longest: usize) -> Result<Option<Vec<u8>>, HomeError> {
    let failed = |fault| HomeError::File(path.to_path_buf(), fault);
    match private::open(path).map_err(failed)? {
        Private::Missing => Ok(None),
        Private::Unsafe => Err(HomeError::Damaged(path.to_path_buf())),
        Private::File(file) => {
            private::read(&file, longest).map_err(failed)?.map(Some).ok_or_else(|| HomeError::Damaged(path.to_path_buf()))
        }
    }
}

/// A transfer that may have left temporary files: what [`crate::files::sweep`] needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The transfer.
    pub transfer: TransferId,
    /// Its destination, as an absolute path.
    pub directory: PathBuf,
    /// The names of its top items there.
    pub tops: Vec<Vec<u8>>,
}

/// The list of pending transfers, a file each: added before the first temporary file is made, removed when none is left.
#[derive(Debug)]
pub struct PendingDirs {
    path: PathBuf,
}

impl PendingDirs {
    /// Adds a transfer, or replaces what was noted of it. Durable when it returns.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn add(&self, pending: &Pending) -> Result<(), HomeError> {
        let failed = |fault| HomeError::File(self.path.clone(), fault);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|error| failed(error.into()))?;
        private::sync_directory(&self.path).map_err(failed)?;
        // Neither a path nor a name contains a zero byte.
        let fields = std::iter::once(pending.directory.as_os_str().as_bytes()).chain(pending.tops.iter().map(Vec::as_slice));
        let bytes = fields.collect::<Vec<_>>().join(&0);
        private::write(&self.path.join(pending.transfer.to_string()), &bytes, Replace::Yes).map_err(failed)
    }

    /// Removes a transfer. One that is not listed is no error.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn remove(&self, transfer: TransferId) -> Result<(), HomeError> {
        let path = self.path.join(transfer.to_string());
        match unlinkat(CWD, &path, AtFlags::empty()).map_err(FileFault::from) {
            Ok(()) | Err(FileFault::NotFound) => Ok(()),
            Err(fault) => Err(HomeError::File(path, fault)),
        }
    }

    /// All transfers that are listed. Files that are not ours are passed over.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn list(&self) -> Result<Vec<Pending>, HomeError> {
        let failed = |error: std::io::Error| HomeError::File(self.path.clone(), error.into());
        let directory = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            answer => answer.map_err(failed)?,
        };
        let mut list = Vec::new();
        for entry in directory {
            let entry = entry.map_err(failed)?;
            let Some(transfer) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(Some(bytes)) = read_private(&entry.path(), LONGEST_PENDING) else { continue };
            let mut fields = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec);
            let directory = PathBuf::from(OsString::from_vec(fields.next().unwrap_or_default()));
            list.push(Pending { transfer, directory, tops: fields.collect() });
        }
        list.sort_by_key(|pending| pending.transfer);
        Ok(list)
    }
}

#[cfg(test)]
mod tests;
