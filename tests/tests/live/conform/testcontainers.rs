//! What programs get that start their databases and the like by testcontainers (the Python one).

use shoal_tests::image::NAME;
use shoal_tests::lab::live;

use super::{Daemon, python_with};

/// As a test of somebody's would: two containers on a network of their own, one asks the other and so does the test.
const SCRIPT: &str = r#"
import os, sys, urllib.request
os.environ["DOCKER_HOST"] = "unix://" + sys.argv[1]
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
import docker
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

image = sys.argv[2]
serve = "echo page > /www/index.html; echo ready; exec httpd -f -p 80 -h /www"
with Network() as network:
    server = DockerContainer(image).with_command(["sh", "-c", serve]).with_exposed_ports(80).with_env("A", "b")
    server = server.with_network(network).with_network_aliases("web").with_volume_mapping("kept", "/kept", "rw")
    with server:
        wait_for_logs(server, "ready", timeout=60)
        url = "http://%s:%s/" % (server.get_container_host_ip(), server.get_exposed_port(80))
        for attempt in range(50):
            try:
                page = urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                pass
        assert page == b"page\n", page
        done = server.exec(["sh", "-c", "echo $A; echo kept > /kept/f; exit 3"])
        assert (done.exit_code, done.output) == (3, b"b\n"), done
        out, err = server.get_logs()
        assert out.startswith(b"ready"), (out, err)
        client = DockerContainer(image).with_command(["sh", "-c", "wget -q -O - http://web/; cat /kept/f"])
        client = client.with_network(network).with_volume_mapping("kept", "/kept", "ro")
        with client:
            wait_for_logs(client, "kept", timeout=60)
            assert client.get_logs()[0] == b"page\nkept\n", client.get_logs()
left = docker.DockerClient(base_url=os.environ["DOCKER_HOST"])
assert left.containers.list(all=True) == [], left.containers.list(all=True)
left.volumes.get("kept").remove()
"#;

#[test]
fn testcontainers_start_and_go() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let Some(python) = python_with("testcontainers", &["testcontainers"], "testcontainers.core.network") else {
        return Ok(());
    };
    let daemon = Daemon::up("testcontainers")?;
    // The ports are those of the daemon's host.
    daemon.on(&[&python, "-c", SCRIPT, &daemon.socket, NAME])?.ok()?;
    daemon.down()
}
