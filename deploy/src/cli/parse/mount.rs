//! `--mount type=volume,source=data,target=/data,readonly`: one mount as the API's `Mount` object.

use serde_json::{Map, Value, json};

use super::super::look::set;
use super::{csv, size};

/// The mount of one `--mount` flag.
pub(crate) fn mount(text: &str) -> Result<Value, String> {
    let mut mount = json!({"Type": "volume"});
    let mut labels = Map::new();
    let mut options = Map::new();
    for (key, value) in csv::pairs(text)? {
        let flag = |value: &Option<String>| truth(&key, value.as_deref());
        match key.as_str() {
            "readonly" | "ro" => set_true(&mut mount, "ReadOnly", flag(&value)?),
            "volume-nocopy" => set_true(&mut mount, "VolumeOptions.NoCopy", flag(&value)?),
            "bind-nonrecursive" => set_true(&mut mount, "BindOptions.NonRecursive", flag(&value)?),
            "bind-create-src" => set_true(&mut mount, "BindOptions.CreateMountpoint", flag(&value)?),
            _ => {
                let value = value.ok_or_else(|| format!("invalid field '{key}' must be a key=value pair"))?;
                match key.as_str() {
                    "volume-label" => insert_pair(&mut labels, &value),
                    "volume-opt" => insert_pair(&mut options, &value),
                    _ => field(&mut mount, &key, &value)?,
                }
            }
        }
    }
    if !labels.is_empty() {
        set(&mut mount, "VolumeOptions.Labels", labels);
    }
    if !options.is_empty() {
        set(&mut mount, "VolumeOptions.DriverConfig.Options", options);
    }
    check(&mount, text)?;
    Ok(mount)
}

fn insert_pair(map: &mut Map<String, Value>, pair: &str) {
    let (key, value) = super::pair::split(pair);
    map.insert(key, Value::String(value));
}

fn set_true(mount: &mut Value, path: &str, on: bool) {
    if on {
        set(mount, path, true);
    }
}

fn truth(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other} (true or false)")),
    }
}

fn field(mount: &mut Value, key: &str, value: &str) -> Result<(), String> {
    match key {
        "type" => set(mount, "Type", value.to_ascii_lowercase()),
        "source" | "src" => set(mount, "Source", absolute(value)),
        "target" | "dst" | "destination" => set(mount, "Target", value),
        "consistency" => set(mount, "Consistency", value.to_ascii_lowercase()),
        "bind-propagation" => set(mount, "BindOptions.Propagation", value.to_ascii_lowercase()),
        "bind-recursive" => bind_recursive(mount, value)?,
        "volume-subpath" => set(mount, "VolumeOptions.Subpath", value),
        "volume-driver" => set(mount, "VolumeOptions.DriverConfig.Name", value),
        "image-subpath" => set(mount, "ImageOptions.Subpath", value),
        "tmpfs-size" => set(mount, "TmpfsOptions.SizeBytes", size::bytes(value)?),
        "tmpfs-mode" => {
            let mode =
                u32::from_str_radix(value, 8).map_err(|_| format!("invalid value for tmpfs-mode: {value} (octal)"))?;
            set(mount, "TmpfsOptions.Mode", mode);
        }
        _ => {
            return Err(format!(
                "unexpected key '{key}' in mount (type, source, target, readonly, bind-*, volume-*, tmpfs-*)"
            ));
        }
    }
    Ok(())
}

/// A source that starts with `.` is a path below the working directory.
fn absolute(source: &str) -> String {
    if source == "." || source.starts_with("./") || source.starts_with("../") || source == ".." {
        let folder = std::env::current_dir().unwrap_or_default();
        return normal(&folder.join(source)).to_string_lossy().into_owned();
    }
    source.to_owned()
}

/// A path without `.` and `..` steps.
pub(crate) fn normal(path: &std::path::Path) -> std::path::PathBuf {
    let mut result = std::path::PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => drop(result.pop()),
            std::path::Component::CurDir => {}
            other => result.push(other),
        }
    }
    result
}

fn bind_recursive(mount: &mut Value, value: &str) -> Result<(), String> {
    match value {
        "enabled" => {}
        "disabled" => set(mount, "BindOptions.NonRecursive", true),
        "writable" => set(mount, "BindOptions.ReadOnlyNonRecursive", true),
        "readonly" => set(mount, "BindOptions.ReadOnlyForceRecursive", true),
        _ => return Err(format!("invalid value for bind-recursive: {value} (enabled, disabled, writable, readonly)")),
    }
    Ok(())
}

fn check(mount: &Value, text: &str) -> Result<(), String> {
    let kind = mount.get("Type").and_then(Value::as_str).unwrap_or_default();
    if !["bind", "volume", "tmpfs", "npipe", "cluster", "image"].contains(&kind) {
        return Err(format!("invalid mount type '{kind}' (bind, volume, tmpfs)"));
    }
    if mount.get("Target").is_none() {
        return Err(format!("target is required in mount '{text}'"));
    }
    let only = |options: &str, owner: &str| match mount.get(options) {
        Some(_) if kind != owner => Err(format!("cannot mix '{}-*' options with mount type '{kind}'", owner)),
        _ => Ok(()),
    };
    only("BindOptions", "bind")?;
    only("VolumeOptions", "volume")?;
    only("TmpfsOptions", "tmpfs")?;
    if kind == "tmpfs" && mount.get("Source").is_some() {
        return Err("a tmpfs mount has no source".to_owned());
    }
    if kind == "bind" && mount.get("Source").is_none() {
        return Err(format!("source is required in bind mount '{text}'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_kinds() {
        assert_eq!(
            mount("source=data,target=/data").unwrap(),
            json!({"Type": "volume", "Source": "data", "Target": "/data"})
        );
        assert_eq!(
            mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rshared").unwrap(),
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "BindOptions": {"Propagation": "rshared"}})
        );
        assert_eq!(
            mount("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1777").unwrap(),
            json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 64 << 20, "Mode": 0o1777}})
        );
        assert_eq!(
            mount("target=/d,volume-driver=local,volume-opt=type=nfs,\"volume-opt=o=addr=1,rw\",volume-label=a=b,volume-nocopy").unwrap(),
            json!({"Type": "volume", "Target": "/d", "VolumeOptions": {"NoCopy": true, "Labels": {"a": "b"},
                "DriverConfig": {"Name": "local", "Options": {"type": "nfs", "o": "addr=1,rw"}}}})
        );
        assert_eq!(mount("type=volume,target=/d,readonly=false").unwrap(), json!({"Type": "volume", "Target": "/d"}));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in [
            "",
            "type=volume",
            "type=bind,target=/b",
            "type=weird,target=/b",
            "target",
            "type=tmpfs,source=x,target=/t",
            "type=bind,source=/a,target=/b,volume-nocopy",
            "target=/a,readonly=perhaps",
            "target=/a,what=1",
            "type=tmpfs,target=/t,tmpfs-mode=9",
        ] {
            assert!(mount(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z=,/\".-]{0,40}") {
            let _ = mount(&text);
        }
    }
}
