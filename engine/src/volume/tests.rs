use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use shoal_kit::clock::ManualClock;

use super::*;

struct Fixture {
    host: tempfile::TempDir,
    store: VolumeStore,
}

struct Users(Vec<&'static str>);

impl VolumeUsers for Users {
    fn users(&self, volume: &str) -> Vec<String> {
        if volume == "used" { self.0.iter().map(|id| (*id).to_owned()).collect() } else { Vec::new() }
    }
}

fn open(host: &Path) -> VolumeStore {
    let clock = ManualClock::at(Timestamp(1_500_000_000_123_456_789));
    clock.advance(Duration::ZERO);
    let options = VolumeStoreOptions {
        root: host.join("volumes"),
        clock: Arc::new(clock),
        entropy: Entropy::from_seed(1),
        owner: (0, 0),
    };
    VolumeStore::open(options).unwrap()
}

fn request(name: &str, options: &[(&str, &str)]) -> VolumeCreate {
    let options: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    VolumeCreate {
        name: name.to_owned(),
        driver_opts: (!options.is_empty()).then_some(options),
        ..VolumeCreate::default()
    }
}

impl Fixture {
    fn new() -> Self {
        let host = tempfile::tempdir().unwrap();
        let store = open(host.path());
        Self { host, store }
    }

    fn names(&self, filters: &Filters) -> Vec<String> {
        self.store.list(filters).unwrap().volumes.into_iter().map(|volume| volume.name).collect()
    }
}

#[test]
fn a_volume_is_there_again_after_a_restart() {
    let mut fixture = Fixture::new();
    let mut wanted = request("data", &[]);
    wanted.labels = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    let made = fixture.store.create(wanted).unwrap();
    let path = fixture.host.path().join("volumes/data/_data");
    assert_eq!(made.mountpoint, path.display().to_string());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fixture.host.path().join("volumes").metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    let json = serde_json::to_value(&made).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"CreatedAt": "2017-07-14T02:40:00Z", "Driver": "local", "Labels": {"a": "b"},
            "Mountpoint": made.mountpoint, "Name": "data", "Options": null, "Scope": "local"})
    );
    std::fs::write(path.join("file"), "x").unwrap();
    std::fs::create_dir_all(fixture.host.path().join("volumes/.new-half/_data")).unwrap();
    std::fs::create_dir_all(fixture.host.path().join("volumes/.gone-half/_data")).unwrap();
    fixture.store = open(fixture.host.path());
    assert_eq!(fixture.store.inspect("data").unwrap(), made);
    assert_eq!(fixture.store.create(request("data", &[])).unwrap(), made, "again is the same one");
    assert_eq!(std::fs::read_dir(fixture.host.path().join("volumes")).unwrap().count(), 1);
    assert!(path.join("file").exists());
    fixture.store.remove("data", false).unwrap();
    assert_eq!(fixture.store.inspect("data").unwrap_err().message, "get data: no such volume");
    assert_eq!(fixture.store.remove("data", false).unwrap_err().kind, ErrorKind::NotFound);
    fixture.store.remove("data", true).unwrap();
    assert_eq!(std::fs::read_dir(fixture.host.path().join("volumes")).unwrap().count(), 0);
}

#[test]
fn wrong_requests_are_refused() {
    let fixture = Fixture::new();
    for wrong in [request("../x", &[]), request("a", &[]), request("ok", &[("x", "y")])] {
        assert_eq!(fixture.store.create(wrong).unwrap_err().kind, ErrorKind::InvalidArgument);
    }
    let error = fixture.store.create(VolumeCreate { driver: "nfs".to_owned(), ..request("ok", &[]) }).unwrap_err();
    assert_eq!(error.message, "error looking up volume plugin nfs: plugin \"nfs\" not found");
    assert!(fixture.names(&Filters::default()).is_empty());
}

#[test]
fn what_containers_refer_to_stays() {
    let fixture = Fixture::new();
    for name in ["used", "free"] {
        fixture.store.create(request(name, &[])).unwrap();
    }
    let anonymous = fixture.store.create(request("", &[])).unwrap();
    assert_eq!(anonymous.name.len(), 64);
    fixture.store.set_users(Arc::new(Users(vec!["c1", "c2"])));
    let error = fixture.store.remove("used", true).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Conflict, "remove used: volume is in use - [c1 c2]"));
    assert_eq!(fixture.names(&Filters::default().with("dangling", "false")), ["used"]);
    assert_eq!(fixture.names(&Filters::default().with("dangling", "1")).len(), 2);
    assert_eq!(fixture.names(&Filters::default().with("name", "se")), ["used"]);
    assert_eq!(fixture.names(&Filters::default().with("label", ANONYMOUS)), std::slice::from_ref(&anonymous.name));
    assert!(fixture.names(&Filters::default().with("driver", "nfs")).is_empty());
    assert!(fixture.store.list(&Filters::default().with("x", "y")).is_err());
    std::fs::write(Path::new(&anonymous.mountpoint).join("f"), "12345").unwrap();
    let usage = fixture.store.usage();
    let of = |name: &str| usage.iter().find(|volume| volume.name == name).unwrap().usage_data.unwrap();
    assert_eq!((of("used").ref_count, of(&anonymous.name).size), (2, 5));
    let report = fixture.store.prune(&Filters::default()).unwrap();
    assert_eq!((report.volumes_deleted, report.space_reclaimed), (Some(vec![anonymous.name]), 5));
    let report = fixture.store.prune(&Filters::default().with("all", "true")).unwrap();
    assert_eq!(report.volumes_deleted, Some(vec!["free".to_owned()]));
    assert_eq!(fixture.names(&Filters::default()), ["used"]);
}

#[test]
fn subpaths_stay_inside() {
    let fixture = Fixture::new();
    let volume = fixture.store.create(request("data", &[])).unwrap();
    let data = Path::new(&volume.mountpoint);
    std::fs::create_dir(data.join("inside")).unwrap();
    std::fs::create_dir(fixture.host.path().join("etc")).unwrap();
    let host_etc = fixture.host.path().join("etc");
    std::os::unix::fs::symlink(&host_etc, data.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../etc", data.join("climbing")).unwrap();
    std::os::unix::fs::symlink("/inside", data.join("back")).unwrap();
    std::os::unix::fs::symlink("/proc/self/root", data.join("magic")).unwrap();
    for path in ["inside", "back", "./inside/", ""] {
        let opened = fixture.store.open_subpath("data", Path::new(path)).unwrap();
        assert!(fs::real_path(&opened).unwrap().starts_with(data), "{path}");
    }
    for path in ["absolute", "climbing", "missing", "magic/etc", "../data", "/inside", "inside/../../x"] {
        fixture.store.open_subpath("data", Path::new(path)).unwrap_err();
    }
}
