//! The home of a device: its identity seed, settings, a snapshot for read-only programs, and the place of its records and journals.
//! One process at a time holds it.

use core::fmt;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use protocol_core::crypto::secret::Secret;
use rustix::fs::{CWD, FileType, Mode, OFlags, openat, stat};
use zeroize::Zeroize as _;

use crate::files::FileFault;
use crate::private::{self, Private, Replace};

/// The longest settings file and snapshot that are read, in bytes.
const LONGEST_SETTINGS: usize = 64 << 10;
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
    /// A file of the home that another version of the program wrote, and that this one writes anew when it opens the home.
    OtherVersion(PathBuf),
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
            Self::OtherVersion(file) => write!(f, "{} was written by another version of this program", file.display()),
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

    /// Where what is remembered of unfinished transfers is, for [`crate::journal::Journals::new`].
    pub fn journals_path(&self) -> PathBuf {
        journals_path(&self.path)
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
const JOURNALS: &str = "transfers";

/// Where the journals of the home at `path` are.
pub fn journals_path(path: &Path) -> PathBuf {
    path.join(JOURNALS)
}

/// Reads the snapshot of a home without taking its lock. `None`: there is none yet.
///
/// # Errors
/// [`HomeError::Damaged`] if it is a link, another user's or too long; faults of the file system.
pub fn read_snapshot(home: &Path) -> Result<Option<Vec<u8>>, HomeError> {
    read_private(&snapshot_path(home), LONGEST_SNAPSHOT)
}

/// Where it is.
pub(crate) fn snapshot_path(home: &Path) -> PathBuf {
    home.join(SNAPSHOT)
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

#[cfg(test)]
mod tests;
