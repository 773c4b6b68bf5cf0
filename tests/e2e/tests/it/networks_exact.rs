//! What networks show and refuse, field by field, as clients of Docker know it.

use crate::networks::{Box, Net};
use naru_e2e::{BOX, name, shared};
use serde_json::Value;

#[test]
fn any_user_has_low_ports_and_may_ping() {
    let daemon = shared();
    let serve = "httpd -p 80 -h /etc && cat /proc/sys/net/ipv4/ping_group_range";
    for network in ["bridge", "none"] {
        let groups = daemon.ok(&["run", "--rm", "--user", "1000", "--network", network, BOX, "sh", "-c", serve]);
        assert_eq!(groups, "0\t2147483647", "{network}");
    }
    // What the user says counts, and the host keeps its own.
    let flags = ["run", "--rm", "--user", "1000", "--sysctl", "net.ipv4.ip_unprivileged_port_start=81"];
    daemon.fails(1, &[&flags[..], &[BOX, "sh", "-c", serve]].concat());
    let file = "/proc/sys/net/ipv4/ping_group_range";
    let own = std::fs::read_to_string(file).unwrap();
    assert_eq!(daemon.ok(&["run", "--rm", "--network", "host", BOX, "cat", file]), own.trim_end());
}

#[test]
fn a_configuration_hands_on_all_it_says() {
    let daemon = shared();
    let config = Net::new(
        daemon,
        &["--config-only", "--ipv6", "--label", "tier=db", "--ipam-opt", "a=b", "-o", "com.docker.network.driver.mtu=1400"],
    );
    let net = Net::new(daemon, &["--config-from", &config.1]);
    let object = net.inspect();
    assert_eq!(object["EnableIPv6"], true);
    assert_eq!(object["Labels"]["tier"], "db");
    assert_eq!(object["IPAM"]["Options"]["a"], "b");
    assert_eq!(object["Options"]["com.docker.network.driver.mtu"], "1400");
    let operator = "configuration network can only contain network specific fields";
    let cases: &[(&[&str], &str)] = &[
        (&["--config-only", "--internal"], operator),
        (&["--config-only", "--attachable"], operator),
        (&["--config-from", &config.1, "--label", "x=y"], "user specified configurations are not supported"),
        (&["--config-from", &config.1, "--ipv6"], "user specified configurations are not supported"),
        (&["--config-from", &config.1, "-o", "com.docker.network.driver.mtu=1300"], "network driver options are not supported"),
        (&["--config-from", &net.1], "does not exist"),
        (&["--config-from", "nosuch"], "does not exist"),
    ];
    for (flags, text) in cases {
        let message = daemon.fails(1, &[&["network", "create"], *flags, &["x"]].concat());
        assert!(message.contains(text), "{flags:?}: {message}");
    }
}

#[test]
fn a_network_may_have_slashes_in_its_name() {
    let daemon = shared();
    let (net, container) = (format!("{}/connect/x", name("net")), Box::new(daemon, &[]));
    daemon.ok(&["network", "create", &net]);
    assert_eq!(daemon.ok(&["network", "inspect", "-f", "{{.Name}}", &net]), net);
    daemon.ok(&["network", "connect", &net, &container.1]);
    daemon.ok(&["network", "disconnect", &net, &container.1]);
    daemon.ok(&["network", "rm", &net]);
    daemon.fails(1, &["network", "inspect", &net]);
}

#[test]
fn links_may_be_too_small_for_ipv6() {
    let daemon = shared();
    let mtu = "com.docker.network.driver.mtu=600";
    let net = Net::new(daemon, &["-o", mtu]);
    let (server, client) = (Box::new(daemon, &["--network", &net.1]), Box::new(daemon, &["--network", &net.1]));
    assert_eq!(server.sh("cat /sys/class/net/eth0/mtu"), "600");
    client.sh(&format!("ping -c 1 {}", server.1));
    assert!(daemon.fails(1, &["network", "create", "--ipv6", "-o", mtu, "mtu-x"]).contains("too small for IPv6"));
}

#[test]
fn inspect_shows_what_docker_s_does() {
    let daemon = shared();
    let subnet = "fd00:7a:1::/64";
    let net = Net::new(daemon, &["--ipv6", "--subnet", subnet]);
    // Subnets that were asked for come first.
    assert_eq!(net.inspect()["IPAM"]["Config"][0]["Subnet"], subnet);
    let container = Box::new(daemon, &["--mac-address", "0242.0a00.0009"]);
    assert_eq!(daemon.inspect(&container.1)["Config"]["MacAddress"], "02:42:0a:00:00:09");
    let container = Box::new(daemon, &["--network", "host"]);
    let inspected = daemon.inspect(&container.1);
    let endpoint = inspected["NetworkSettings"]["Networks"]["host"]["EndpointID"].as_str().unwrap();
    assert_eq!(endpoint.len(), 64);
    let host: Value = serde_json::from_str(&daemon.ok(&["network", "inspect", "host"])).unwrap();
    assert_eq!(host[0]["Containers"][inspected["Id"].as_str().unwrap()]["EndpointID"], endpoint);
    // Options of the address management are none unless somebody names some.
    let name = name("net");
    let (status, answer) = daemon.api("POST", "/networks/create", Some(&format!(r#"{{"Name":"{name}"}}"#)));
    assert_eq!(status, 201, "{answer}");
    let shown = daemon.ok(&["network", "inspect", "-f", "{{json .IPAM.Options}}", &name]);
    daemon.ok(&["network", "rm", &name]);
    assert_eq!(shown, "null");
}

#[test]
fn requests_that_docker_refuses_are_refused_likewise() {
    let daemon = shared();
    let create = |fields: &str| daemon.api("POST", "/networks/create", Some(&format!(r#"{{"Name":"x",{fields}}}"#)));
    let cases = [
        (r#""Scope":"swarm""#, 403, "cannot create a swarm scoped network when swarm is not active"),
        (r#""Scope":"swarm","Driver":"host""#, 403, "swarm scoped network"),
        (r#""Scope":"swarm","Driver":"nosuch""#, 404, "plugin \\\"nosuch\\\" not found"),
        (r#""Scope":"swarm","ConfigOnly":true"#, 403, "Network operator fields"),
        (r#""Driver":"overlay","Scope":"swarm""#, 403, "not a swarm manager"),
        (r#""Ingress":true"#, 403, "Ingress network"),
        (r#""IPAM":{"Config":[{"Subnet":""}]}"#, 400, "invalid subnet : invalid CIDR block notation"),
        (r#""Options":{"com.docker.network.host_ipv4":"::1"}"#, 400, "not an IPv4 address"),
        (r#""Options":{"com.docker.network.host_ipv6":"1.2.3.4"}"#, 400, "not an IPv6 address"),
        (r#""Driver":"default""#, 404, "plugin \\\"default\\\" not found"),
    ];
    for (fields, code, text) in cases {
        let (status, message) = create(fields);
        assert!(status == code && message.contains(text), "{fields}: {status} {message}");
    }
    let (status, message) = daemon.api("POST", "/networks/nosuch/connect", Some(r#"{"Container":"nosuch"}"#));
    assert!(status == 404 && message.contains("No such container: nosuch"), "{status} {message}");
    let macs = format!(
        r#"{{"Image":"{BOX}","MacAddress":"02:42:00:00:00:09","NetworkingConfig":{{"EndpointsConfig":{{"bridge":{{"MacAddress":"02:42:00:00:00:08"}}}}}}}}"#
    );
    let (status, message) = daemon.api("POST", "/containers/create", Some(&macs));
    assert!(status == 400 && message.contains("must match the endpoint-specific MAC address"), "{status} {message}");
    let stopped = name("box");
    daemon.ok(&["create", "--name", &stopped, BOX]);
    for (flags, text) in [
        (["--network", "container:nosuch"], "joining network namespace of container: No such container: nosuch".to_owned()),
        (["--network", "container:"], "invalid container format container:<name|id>".to_owned()),
        (
            ["--network", &format!("container:{stopped}")],
            format!("cannot join network namespace of a non running container: container {stopped} is created"),
        ),
    ] {
        let message = daemon.fails(125, &[&["run", "--rm"], &flags[..], &[BOX, "true"]].concat());
        assert!(message.contains(&text), "{flags:?}: {message}");
    }
    daemon.ok(&["rm", &stopped]);
}

#[test]
fn a_scope_is_kept_for_who_asks() {
    let daemon = shared();
    for scope in ["global", "local", "elsewhere"] {
        let net = Net::new(daemon, &["--scope", scope]);
        assert_eq!(net.inspect()["Scope"], scope);
        let listed = |wanted: &str| {
            let list = daemon.ok(&["network", "ls", "-q", "--no-trunc", "--filter", &format!("scope={wanted}")]);
            list.lines().any(|id| net.inspect()["Id"] == id)
        };
        assert!(listed(scope) && !listed("swarm") && listed("local") == (scope == "local"), "{scope}");
        let inspected = |wanted: &str| daemon.api("GET", &format!("/networks/{}?scope={wanted}", net.1), None).0;
        assert_eq!((inspected(scope), inspected(""), inspected("swarm")), (200, 200, 404), "{scope}");
        daemon.ok(&["run", "--rm", "--network", &net.1, BOX, "true"]);
    }
}

#[test]
fn ports_are_listed_in_natural_order() {
    let daemon = shared();
    let container = Box::new(daemon, &["-p", "127.0.0.9::80", "-p", "127.0.0.10::80", "-p", "127.0.0.1::9"]);
    let listed = daemon.ok(&["port", &container.1]);
    let order: Vec<&str> = listed.lines().map(|line| line.rsplit_once(':').unwrap().0).collect();
    assert_eq!(order, ["9/tcp -> 127.0.0.1", "80/tcp -> 127.0.0.9", "80/tcp -> 127.0.0.10"]);
}
