//! Keeps the nodes where the host ports that a container asks for are free.
//!
//! On the host's network nothing is bound, so the ports that the container exposes are compared
//! with those of other containers on the host's network. On any other network each binding is
//! compared with what is taken on the node, for its address and protocol; a range has room while
//! one port of it is free.

use skep_plugin_sdk::filter::Feeds;
use skep_plugin_sdk::{Filter, NoSettings, NodeSet, Nodes, PortBinding, Request, Result, host};

struct Port;

impl Filter for Port {
    type Settings = NoSettings;
    // The daemon answers all questions about ports.
    const FEEDS: Feeds = Feeds::empty();

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn applies(&self, request: &Request, _nodes: &Nodes) -> Result<bool> {
        Ok(if on_host_network(request) {
            !request.exposed_ports.is_empty()
        } else {
            fixed(request).next().is_some()
        })
    }

    fn filter(&self, request: &Request, _nodes: &Nodes, keep: &mut NodeSet) -> Result<()> {
        if on_host_network(request) {
            for port in &request.exposed_ports {
                keep.subtract(&host::nodes_with_host_mode_port(port)?);
            }
        } else {
            for PortBinding {
                host_ip,
                first,
                last,
                protocol,
            } in fixed(request)
            {
                keep.subtract(&host::nodes_with_host_ports(
                    host_ip, *first, *last, protocol,
                )?);
            }
        }
        Ok(())
    }

    fn explain(&self, request: &Request) -> Vec<String> {
        if on_host_network(request) {
            let ports = request.exposed_ports.iter();
            ports
                .map(|port| format!("port {port} (Host mode)"))
                .collect()
        } else {
            fixed(request)
                .map(|binding| format!("port {} (Bridge mode)", range(binding)))
                .collect()
        }
    }
}

skep_plugin_sdk::export_filter!(Port);

fn on_host_network(request: &Request) -> bool {
    request.network_mode == "host"
}

/// The bindings that name a port; for port 0 the engine chooses a free one.
fn fixed(request: &Request) -> impl Iterator<Item = &PortBinding> {
    request.bindings.iter().filter(|binding| binding.last > 0)
}

fn range(binding: &PortBinding) -> String {
    if binding.first == binding.last {
        binding.first.to_string()
    } else {
        format!("{}-{}", binding.first, binding.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Container, Host, Outcome, node, request, run_filter};

    fn bind(host_ip: &str, first: u16, last: u16, protocol: &str) -> Request {
        let binding = PortBinding {
            host_ip: host_ip.into(),
            first,
            last,
            protocol: protocol.into(),
        };
        Request {
            bindings: vec![binding],
            ..request()
        }
    }

    #[track_caller]
    fn check(request: Request, expected: &[u32]) {
        let outcome = run_filter::<Port>("{}", (0..2).map(|slot| node(slot, "n")), request);
        assert_eq!(outcome, Ok(Outcome::Passed(expected.to_vec())));
    }

    #[test]
    fn has_nothing_to_say_without_ports() {
        for request in [
            request(),
            bind("", 0, 0, "tcp"),
            Request {
                network_mode: "host".into(),
                ..bind("", 80, 80, "tcp")
            },
            Request {
                exposed_ports: vec!["80/tcp".into()],
                ..request()
            },
        ] {
            assert_eq!(
                run_filter::<Port>("{}", [node(0, "n")], request),
                Ok(Outcome::Skipped)
            );
        }
    }

    #[test]
    fn keeps_nodes_where_the_port_is_free() {
        let host = Host::install();
        check(bind("", 80, 80, "tcp"), &[0, 1]);
        host.run(0, Container::named("a").port("", 80, "tcp"));
        check(bind("", 80, 80, "tcp"), &[1]);
        check(bind("", 81, 81, "tcp"), &[0, 1]);
    }

    #[test]
    fn a_port_taken_on_all_addresses_is_taken_on_each() {
        let host = Host::install();
        host.run(0, Container::named("a").port("0.0.0.0", 80, "tcp"));
        check(bind("127.0.0.1", 80, 80, "tcp"), &[1]);
    }

    #[test]
    fn a_port_taken_on_one_address_is_free_on_another() {
        let host = Host::install();
        host.run(0, Container::named("a").port("127.0.0.1", 80, "tcp"));
        check(bind("127.0.0.1", 80, 80, "tcp"), &[1]);
        check(bind("0.0.0.0", 80, 80, "tcp"), &[1]);
        check(bind("", 80, 80, "tcp"), &[1]);
        check(bind("192.168.1.1", 80, 80, "tcp"), &[0, 1]);
    }

    #[test]
    fn protocols_do_not_conflict() {
        let host = Host::install();
        host.run(0, Container::named("dns").port("", 53, "tcp"));
        check(bind("", 53, 53, "udp"), &[0, 1]);
        check(bind("", 53, 53, "tcp"), &[1]);
    }

    #[test]
    fn a_range_needs_one_free_port() {
        let host = Host::install();
        host.run(0, Container::named("a").port("", 80, "tcp"));
        check(bind("", 80, 81, "tcp"), &[0, 1]);
        host.run(0, Container::named("b").port("", 81, "tcp"));
        check(bind("", 80, 81, "tcp"), &[1]);
    }

    #[test]
    fn on_the_host_network_exposed_ports_are_compared() {
        let host = Host::install();
        host.run(1, Container::named("a").host_mode_port("80/tcp"));
        host.run(0, Container::named("b").port("", 80, "tcp"));
        let exposed = vec!["443/tcp".into(), "80/tcp".into()];
        check(
            Request {
                network_mode: "host".into(),
                exposed_ports: exposed,
                ..request()
            },
            &[0],
        );
    }

    #[test]
    fn explains_in_the_words_clients_know() {
        let port = Port;
        assert_eq!(
            port.explain(&bind("", 80, 80, "tcp")),
            ["port 80 (Bridge mode)"]
        );
        assert_eq!(
            port.explain(&bind("", 80, 90, "tcp")),
            ["port 80-90 (Bridge mode)"]
        );
        let exposed = vec!["80/tcp".into()];
        let on_host = Request {
            network_mode: "host".into(),
            exposed_ports: exposed,
            ..request()
        };
        assert_eq!(port.explain(&on_host), ["port 80/tcp (Host mode)"]);
    }
}
