use super::*;
use crate::testing::TempDir;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

fn fault(path: &Path) -> HomeError {
    Home::open(path).expect_err("this home must not open")
}

#[test]
fn an_identity_is_made_once_and_kept() {
    let dir = TempDir::new();
    let path = dir.join("deep/home");
    let home = Home::open(&path).unwrap();
    assert!(home.created());
    let seed = *home.seed().bytes();
    assert_ne!(seed, [0; 32]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(path.join(SEED)).unwrap().mode() & 0o7777, 0o600);
    assert!(!path.join("seed.new").exists());
    drop(home);
    let again = Home::open(&path).unwrap();
    assert!(!again.created());
    assert_eq!(*again.seed().bytes(), seed);
}

#[test]
// HOST-4.
fn one_process_at_a_time() {
    let dir = TempDir::new();
    let path = dir.join("home");
    let home = Home::open(&path).unwrap();
    assert_eq!(fault(&path), HomeError::Locked(path.clone()));
    assert!(fault(&path).to_string().contains("--home"));
    drop(home);
    Home::open(&path).unwrap();
}

/// Hostile persisted state: a seed that is not ours is an error and stays as it is, whatever is wrong with it.
#[test]
// HOST-1.
fn a_bad_seed_is_never_replaced() {
    for bytes in [&[][..], &[1; 31], &[1; 33]] {
        let dir = TempDir::new();
        private::write(&dir.join(SEED), bytes, Replace::No).unwrap();
        assert_eq!(fault(dir.path()), HomeError::SeedDamaged(dir.join(SEED)));
        assert_eq!(fs::read(dir.join(SEED)).unwrap(), bytes);
    }
    for mode in [0o640, 0o604, 0o666, 0o610] {
        let dir = TempDir::new();
        private::write(&dir.join(SEED), &[1; 32], Replace::No).unwrap();
        fs::set_permissions(dir.join(SEED), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fault(dir.path()), HomeError::SeedUnsafe(dir.join(SEED)), "{mode:o}");
    }
    let dir = TempDir::new();
    private::write(&dir.join("elsewhere"), &[1; 32], Replace::No).unwrap();
    symlink("elsewhere", dir.join(SEED)).unwrap();
    assert_eq!(fault(dir.path()), HomeError::SeedUnsafe(dir.join(SEED)));
    let dir = TempDir::new();
    fs::create_dir(dir.join(SEED)).unwrap();
    assert_eq!(fault(dir.path()), HomeError::SeedUnsafe(dir.join(SEED)));
}

#[test]
fn another_users_seed_is_refused() {
    let dir = TempDir::new();
    private::write(&dir.join(SEED), &[1; 32], Replace::No).unwrap();
    let given = std::os::unix::fs::chown(dir.join(SEED), Some(65_534), None);
    if rustix::process::geteuid().is_root() {
        given.unwrap();
        assert_eq!(fault(dir.path()), HomeError::SeedUnsafe(dir.join(SEED)));
    } else {
        // Only root can give a file away; for others the rule is that it cannot be done.
        assert!(given.is_err());
    }
}

#[test]
fn records_without_a_seed_make_no_new_identity() {
    let dir = TempDir::new();
    fs::write(dir.join(RECORDS), b"").unwrap();
    assert_eq!(fault(dir.path()), HomeError::SeedMissing(dir.join(SEED)));
    assert!(!dir.join(SEED).exists());
}

#[test]
fn a_seed_file_cut_short_by_a_crash_is_made_again() {
    let dir = TempDir::new();
    fs::write(dir.join("seed.new"), [1; 7]).unwrap();
    let home = Home::open(dir.path()).unwrap();
    assert!(home.created() && !dir.join("seed.new").exists());
}

#[test]
fn the_home_is_a_directory_that_not_everybody_writes_to() {
    let dir = TempDir::new();
    fs::write(dir.join("file"), b"").unwrap();
    assert_eq!(fault(&dir.join("file")), HomeError::UnsafeDirectory(dir.join("file")));
    assert_eq!(fault(&dir.join("file/below")), HomeError::UnsafeDirectory(dir.join("file/below")));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(fault(dir.path()), HomeError::UnsafeDirectory(dir.path().to_path_buf()));
}

#[test]
fn settings_survive_and_damage_is_told() {
    let dir = TempDir::new();
    let home = Home::open(dir.path()).unwrap();
    assert_eq!(home.settings(), Ok(Settings::default()));
    let settings = Settings { name: Some("Büro  laptop ".into()), ports: [("tcp".to_owned(), 4711), ("iroh".to_owned(), 1)].into() };
    home.write_settings(&settings).unwrap();
    assert_eq!(home.settings(), Ok(settings.clone()));
    let bad = Settings { name: Some("a\nport tcp 1".into()), ..Settings::default() };
    assert_eq!(home.write_settings(&bad), Err(HomeError::BadSetting));
    assert_eq!(home.settings(), Ok(settings));
    for damaged in [&b"port tcp 65536\n"[..], b"color blue\n", b"\xff", b"name", &[b'x'; LONGEST_SETTINGS + 1]] {
        private::write(&dir.join(SETTINGS), damaged, Replace::Yes).unwrap();
        assert_eq!(home.settings(), Err(HomeError::Damaged(dir.join(SETTINGS))));
    }
}

#[test]
fn the_snapshot_is_read_without_the_lock() {
    let dir = TempDir::new();
    assert_eq!(read_snapshot(&dir.join("no home")), Ok(None));
    let home = Home::open(dir.path()).unwrap();
    assert_eq!(read_snapshot(dir.path()), Ok(None));
    for bytes in [&b"{}"[..], b""] {
        home.write_snapshot(bytes).unwrap();
        assert_eq!(read_snapshot(dir.path()), Ok(Some(bytes.to_vec())));
    }
}
