//! The shapes against what dockerd 20.10 gave: read, written again, and compared key by key.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ContainerInspect, ContainerSummary, Event, ExecInspect};

/// Keys of API 1.51 that 1.41 did not have.
const NEW: &[&str] = &["GwPriority", "DNSNames"];
/// Keys of 1.41 that 1.51 has no more, or leaves out when zero.
const OLD: &[&str] = &["KernelMemory", "KernelMemoryTCP"];

fn without(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(map) => {
            keys.iter().for_each(|key| drop(map.remove(*key)));
            map.values_mut().for_each(|value| without(value, keys));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| without(value, keys)),
        _ => {}
    }
}

fn same_shape<T: Serialize + DeserializeOwned>(text: &str) {
    let mut golden: Value = serde_json::from_str(text).expect("golden");
    let parsed: T = serde_json::from_value(golden.clone()).expect("parses");
    let mut ours = serde_json::to_value(&parsed).expect("prints");
    without(&mut golden, OLD);
    without(&mut ours, NEW);
    assert_eq!(ours, golden);
}

#[test]
fn inspect() {
    same_shape::<ContainerInspect>(include_str!("../../tests/goldens/c1.json"));
    same_shape::<ContainerInspect>(include_str!("../../tests/goldens/c2.json"));
}

#[test]
fn list() {
    same_shape::<Vec<ContainerSummary>>(include_str!("../../tests/goldens/list.json"));
}

#[test]
fn exec() {
    same_shape::<ExecInspect>(include_str!("../../tests/goldens/exec1.json"));
    same_shape::<ExecInspect>(include_str!("../../tests/goldens/exec2.json"));
}

#[test]
fn events() {
    for line in include_str!("../../tests/goldens/events.json").lines() {
        same_shape::<Event>(line);
    }
}

#[test]
fn keys_come_in_dockers_order() {
    // Clients that show JSON show it in this order.
    let text = serde_json::to_string(&ContainerInspect::default()).expect("prints");
    let position = |key: &str| text.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key}"));
    for pair in
        ["Id", "Created", "Path", "Args", "State", "Image", "ResolvConfPath", "Name", "HostConfig", "Mounts"].windows(2)
    {
        assert!(position(pair[0]) < position(pair[1]), "{pair:?}");
    }
}
