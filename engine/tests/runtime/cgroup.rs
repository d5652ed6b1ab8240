use super::sandbox::Backend;
pub(crate) const TESTS: &[(&str, fn(Backend))] = &[];
