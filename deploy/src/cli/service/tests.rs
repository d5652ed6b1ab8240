//! Golden bodies: what flags make of a spec.

use clap::Parser;
use serde_json::{Value, json};

use super::create::{CreateArgs, Resolved};
use super::update::UpdateArgs;

#[derive(Parser)]
struct Create {
    #[command(flatten)]
    args: CreateArgs,
}

#[derive(Parser)]
struct Update {
    #[command(flatten)]
    args: UpdateArgs,
}

fn parse<T: clap::CommandFactory + clap::FromArgMatches>(words: &[String]) -> T {
    let command = crate::cli::flags::adapt(T::command().name("test"));
    let matches = command
        .try_get_matches_from(std::iter::once("test").chain(words.iter().map(String::as_str)))
        .unwrap_or_else(|error| panic!("{error}"));
    T::from_arg_matches(&matches).unwrap()
}

/// Words as a shell would split them.
fn words(text: &str) -> Vec<String> {
    crate::cli::parse::words::words(text).unwrap()
}

fn created(words: &[String]) -> anyhow::Result<Value> {
    parse::<Create>(words).args.body(&Resolved::default())
}

fn updated(before: &Value, flags: &str) -> Value {
    let mut body = before.clone();
    parse::<Update>(&words(&format!("{flags} web"))).args.apply(&mut body, &Resolved::default()).unwrap();
    body
}

#[test]
fn the_least_service() {
    let want = json!({
        "Name": "", "Labels": {}, "Mode": {"Replicated": {}},
        "TaskTemplate": {"ContainerSpec": {"Image": "web:latest"}}, "EndpointSpec": {"Mode": "vip"}
    });
    assert_eq!(created(&words("web")).unwrap(), want);
}

#[test]
fn images_have_a_tag() {
    let id = "0".repeat(64);
    let cases = [
        ("web", "web:latest"),
        ("web:1", "web:1"),
        ("host:5000/web", "host:5000/web:latest"),
        ("web@sha256:00", "web@sha256:00"),
        (&id, &id),
    ];
    for (written, sent) in cases {
        assert_eq!(super::create::with_tag(written), sent);
    }
}

#[test]
fn all_capabilities_stand_for_each() {
    let (add, drop) = super::create::capabilities(&["net_admin".to_owned()], &["all".to_owned(), "chown".to_owned()]);
    assert_eq!((add, drop), (vec!["CAP_NET_ADMIN".to_owned()], vec!["ALL".to_owned()]));
}

#[test]
fn arguments_after_the_image_are_the_containers() {
    let body = created(&words("--replicas 2 web sh -c echo --name x -- y")).unwrap();
    assert_eq!(body["TaskTemplate"]["ContainerSpec"]["Args"], json!(["sh", "-c", "echo", "--name", "x", "--", "y"]));
    assert_eq!(body["Mode"], json!({"Replicated": {"Replicas": 2}}));
    assert_eq!(body["Name"], "");
}

#[test]
fn every_part_of_a_spec() {
    let flags = r#"
        --name web -l team=blue --container-label a=b --replicas=3 --replicas-max-per-node 2
        -p 8080:80 --publish published=9000,target=90,protocol=udp,mode=host
        -e A=1 -e B=x=y -w /srv -u 1000:1000 --group video --hostname web-{{.Task.Slot}} --entrypoint "sh -c 'sleep 1'"
        --mount type=volume,source=data,target=/data --mount type=tmpfs,target=/tmp
        --constraint node.role==worker --placement-pref spread=node.labels.zone
        --limit-cpu 0.5 --limit-memory 64m --limit-pids 100 --reserve-cpu .25 --reserve-memory 32m --generic-resource gpu=1
        --restart-condition on-failure --restart-max-attempts 3
        --update-parallelism 2 --update-order start-first --rollback-monitor 10s
        --stop-grace-period 3s --stop-signal SIGINT --init --read-only -t
        --health-cmd true --health-interval 5s --health-retries 2
        --cap-add net_admin --cap-drop ALL --ulimit nofile=1024:2048 --sysctl net.core.somaxconn=10
        --dns 10.0.0.1 --dns-search lan --host db:10.0.0.2 --log-driver json-file --log-opt max-size=1m
        --oom-score-adj -500 web:1 serve"#;
    let want: Value = serde_json::from_str(include_str!("golden/every_part.json")).unwrap();
    assert_eq!(created(&words(flags)).unwrap(), want);
}

#[test]
fn modes() {
    assert_eq!(created(&words("--mode global web")).unwrap()["Mode"], json!({"Global": {}}));
    assert_eq!(
        created(&words("--mode replicated-job --replicas 5 --max-concurrent 2 web")).unwrap()["Mode"],
        json!({"ReplicatedJob": {"TotalCompletions": 5, "MaxConcurrent": 2}})
    );
    assert!(created(&words("--mode global --replicas 2 web")).is_err());
    assert!(created(&words("--max-concurrent 2 web")).is_err());
    assert!(created(&words("--endpoint-mode dnsrr -p 80:80 web")).is_err());
    assert!(created(&words("--no-healthcheck --health-cmd x web")).is_err());
}

#[test]
fn an_update_changes_what_its_flags_say_and_nothing_else() {
    let before = created(&words(
        "--name web -e A=1 -e B=2 -l x=1 --replicas 3 -p 8080:80 --mount target=/a,source=a
         --constraint node.role==worker --cap-add NET_ADMIN --host db:10.0.0.1 web:1",
    ))
    .unwrap();
    assert_eq!(updated(&before, "--detach"), before);
    let flags = r#"
        --image web:2 --args "serve -v" --env-add A=9 --env-add C=3 --env-rm B --label-rm x --label-add y=2
        --publish-rm 80 --publish-add 8081:81 --mount-add target=/a,source=b --mount-add target=/c --replicas 0
        --constraint-rm node.role==worker --constraint-add node.role==manager --cap-drop NET_ADMIN --host-rm db:10.0.0.1
        --force --tty=false --update-delay 1s --no-healthcheck"#;
    let want: Value = serde_json::from_str(include_str!("golden/updated.json")).unwrap();
    assert_eq!(updated(&before, flags), want);
}

#[test]
fn an_update_says_what_is_wrong_with_a_variable() {
    let mut body = created(&words("-e A=1 web")).unwrap();
    let refused = parse::<Update>(&words("--env-add =x web")).args.apply(&mut body, &Resolved::default()).unwrap_err();
    assert_eq!(refused.to_string(), "invalid environment variable: =x");
}

#[test]
fn networks_and_files_come_and_go() {
    let before = json!({"TaskTemplate": {"Networks": [{"Target": "n1"}, {"Target": "n2"}], "ContainerSpec": {"Secrets": [
        {"SecretID": "s1", "SecretName": "old", "File": {"Name": "key"}}, {"SecretID": "s2", "SecretName": "other", "File": {"Name": "other"}}]}}});
    let resolved = Resolved {
        networks: vec![json!({"Target": "n3"})],
        removed_networks: vec!["n1".to_owned()],
        secrets: vec![json!({"SecretID": "s3", "SecretName": "new", "File": {"Name": "key"}})],
        ..Resolved::default()
    };
    let mut body = before.clone();
    parse::<Update>(&words("--secret-rm other web")).args.apply(&mut body, &resolved).unwrap();
    assert_eq!(body["TaskTemplate"]["Networks"], json!([{"Target": "n2"}, {"Target": "n3"}]));
    assert_eq!(
        body["TaskTemplate"]["ContainerSpec"]["Secrets"],
        json!([{"SecretID": "s3", "SecretName": "new", "File": {"Name": "key"}}])
    );
}

#[test]
fn networks_beside_the_template_come_and_go_too() {
    let before = json!({"Name": "web", "Networks": [{"Target": "n1", "Aliases": ["a"]}, {"Target": "n2"}],
        "TaskTemplate": {"ContainerSpec": {}}});
    let change = |before: &Value, added: &[&str], removed: &[&str]| {
        let resolved = Resolved {
            networks: added.iter().map(|target| json!({"Target": target})).collect(),
            removed_networks: removed.iter().map(|&target| target.to_owned()).collect(),
            ..Resolved::default()
        };
        let mut body = before.clone();
        parse::<Update>(&words("web")).args.apply(&mut body, &resolved).unwrap();
        body
    };
    let with = |networks: Value| json!({"Name": "web", "TaskTemplate": {"ContainerSpec": {}, "Networks": networks}});
    let (n1, n2, n3) = (json!({"Target": "n1", "Aliases": ["a"]}), json!({"Target": "n2"}), json!({"Target": "n3"}));
    assert_eq!(change(&before, &["n3"], &[]), with(json!([n1, n2, n3])));
    assert_eq!(change(&before, &[], &["n1"]), with(json!([n2])));
    assert_eq!(change(&before, &[], &["n1", "n2"]), with(json!([])));
    assert_eq!(change(&before, &[], &[]), before, "who does not speak of networks leaves them where they are");
    let mut both = before.clone();
    both["TaskTemplate"]["Networks"] = json!([{"Target": "n2"}]);
    assert_eq!(change(&both, &["n3"], &[]), with(json!([n2, n3])), "those of the template are what counts");
}
