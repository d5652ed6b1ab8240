//! Golden files: what a value renders to, kept in `engine/src/network/golden/` and compared. `SHOAL_BLESS=1` writes them.

use std::path::PathBuf;

pub(crate) fn check(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/network/golden").join(name);
    if std::env::var_os("SHOAL_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(expected == text, "{name} differs; is now:\n{text}");
}
