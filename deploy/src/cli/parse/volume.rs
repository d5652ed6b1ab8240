//! `-v [source:]target[:options]` of `run`.

use std::path::Path;

/// What one `-v` flag means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A nameless volume at this path of the container.
    Anonymous(String),
    /// An entry of `HostConfig.Binds`, with an absolute source when it is a path.
    Bind(String),
}

/// Parses one `-v` flag.
pub(crate) fn volume(text: &str) -> Result<Volume, String> {
    let invalid = |why: &str| format!("invalid volume specification '{text}': {why} (want [source:]target[:options])");
    let parts: Vec<&str> = text.split(':').collect();
    let absolute_target = |target: &str| {
        if target.starts_with('/') { Ok(()) } else { Err(invalid("the target must be an absolute path")) }
    };
    match parts.as_slice() {
        [target] => {
            absolute_target(target)?;
            Ok(Volume::Anonymous((*target).to_owned()))
        }
        [source, target] if !source.is_empty() => {
            absolute_target(target)?;
            Ok(Volume::Bind(format!("{}:{target}", resolve(source))))
        }
        [source, target, options] if !source.is_empty() => {
            absolute_target(target)?;
            Ok(Volume::Bind(format!("{}:{target}:{options}", resolve(source))))
        }
        _ => Err(invalid("empty or too many parts")),
    }
}

/// A source with a leading `.` or `~` is a path of this machine; anything else without `/` is a volume's name.
fn resolve(source: &str) -> String {
    if source.starts_with('.') {
        let folder = std::env::current_dir().unwrap_or_default();
        return super::mount::normal(&folder.join(source)).to_string_lossy().into_owned();
    }
    if Path::new(source).is_absolute() {
        return super::mount::normal(Path::new(source)).to_string_lossy().into_owned();
    }
    source.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(volume("/data"), Ok(Volume::Anonymous("/data".to_owned())));
        assert_eq!(volume("name:/data"), Ok(Volume::Bind("name:/data".to_owned())));
        assert_eq!(volume("/a/../b/:/data:ro"), Ok(Volume::Bind("/b:/data:ro".to_owned())));
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume("./x:/data"), Ok(Volume::Bind(format!("{}/x:/data", here.display()))));
        for text in ["", "data", "a:b", ":/x", "a:/b:ro:rw"] {
            assert!(volume(text).is_err(), "{text}");
        }
    }
}
