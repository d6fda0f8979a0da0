//! What one engine holds, and the rules by which it changes.
//!
//! Each change tells the same events as dockerd, in the same order. Nothing here waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::container::{Container, Phase};
use crate::event::{Event, EventLog};
use crate::ident::Ident;
use crate::volume::{Installed, Volume};

/// Bytes of output kept per container.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// Removed containers whose exit code a `wait` may still ask for.
const DEPARTED_KEPT: usize = 64;

/// An image an engine has.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub id: Ident,
    pub tag: String,
    pub created: i64,
}

/// A network an engine has.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub id: Ident,
    pub name: String,
    pub driver: String,
    pub labels: serde_json::Value,
}

/// A command run in a container.
#[derive(Clone, Debug)]
pub(crate) struct Exec {
    pub id: Ident,
    pub container: Ident,
    pub command: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub running: bool,
    pub exit_code: Option<i64>,
}

/// Output of a container: which stream (1 stdout, 2 stderr), and the bytes.
pub(crate) type Chunk = (u8, Bytes);

/// What a container has written, and who reads along.
#[derive(Default)]
pub(crate) struct Output {
    pub kept: Vec<(i64, Chunk)>,
    pub followers: Vec<mpsc::Sender<Chunk>>,
}

pub(crate) struct State {
    pub engine_id: Box<str>,
    pub containers: Vec<Container>,
    pub images: Arc<Vec<Image>>,
    pub networks: Arc<Vec<Network>>,
    pub volumes: Vec<Volume>,
    pub volume_drivers: Vec<Installed>,
    pub execs: Vec<Exec>,
    pub outputs: HashMap<Ident, Output>,
    pub files: HashMap<(Ident, String), Bytes>,
    /// Exit codes of the containers removed last.
    pub departed: VecDeque<(Ident, i64)>,
    pub events: EventLog,
    pub suppress_events: bool,
    pub create_bodies: Vec<Bytes>,
    pub serial: u64,
    pub owner: u64,
}

impl State {
    /// A fresh identifier.
    pub fn next_id(&mut self) -> Ident {
        self.serial += 1;
        Ident::derive(self.owner, self.serial)
    }

    /// Finds a container as dockerd does: full ID, then name, then an unambiguous ID prefix.
    pub fn find(&self, wanted: &str) -> Option<usize> {
        let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
        let exact = self.containers.iter().position(|c| &*c.name == wanted);
        exact.or_else(|| {
            let mut hits =
                (0..self.containers.len()).filter(|&at| self.containers[at].id.starts_with(wanted));
            hits.next().filter(|_| hits.next().is_none())
        })
    }

    /// Finds an image by tag, ID or ID prefix.
    pub fn find_image(&self, wanted: &str) -> Option<&Image> {
        let tagged = with_tag(wanted);
        let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        self.images
            .iter()
            .find(|image| image.tag == tagged || image.id.starts_with(hex))
    }

    pub fn emit(&mut self, event: Event, now: i64) {
        if !self.suppress_events {
            self.events.push(event, now);
        }
    }

    /// Tells what happened to a container, with its name, image and labels.
    pub fn emit_container(&mut self, at: usize, action: &str, extra: &[(&str, String)], now: i64) {
        if self.suppress_events {
            return;
        }
        let container = &self.containers[at];
        let mut event = Event::new("container", action, container.id.to_string());
        event
            .attributes
            .extend(container.spec.labels.iter().cloned());
        event = event
            .with("image", &container.spec.image)
            .with("name", &*container.name);
        for (key, value) in extra {
            event = event.with(key, value);
        }
        self.events.push(event, now);
    }

    /// Starts a container, and acts out its command if that is one of the few that end at once.
    pub fn start(&mut self, at: usize, now: i64) {
        let container = &mut self.containers[at];
        container.phase = Phase::Running;
        container.started_nanos = now;
        container.oom_killed = false;
        let acted = act(&container.spec.command);
        let id = container.id;
        self.emit_network(at, "connect", now);
        self.emit_container(at, "start", &[], now);
        if let Some((output, exit_code)) = acted {
            if !output.is_empty() {
                self.write(id, (1, output), now);
            }
            self.die(at, exit_code, now);
        }
    }

    /// Ends a running container; it goes away altogether if it was created so.
    pub fn die(&mut self, at: usize, exit_code: i64, now: i64) {
        let container = &mut self.containers[at];
        container.phase = Phase::Exited;
        container.exit_code = exit_code;
        container.exits += 1;
        container.finished_nanos = now;
        let (id, auto_remove) = (container.id, container.spec.auto_remove);
        if let Some(output) = self.outputs.get_mut(&id) {
            output.followers = Vec::new();
        }
        self.emit_container(at, "die", &[("exitCode", exit_code.to_string())], now);
        self.emit_network(at, "disconnect", now);
        if auto_remove {
            self.destroy(at, now);
        }
    }

    /// Forgets a container.
    pub fn destroy(&mut self, at: usize, now: i64) {
        self.emit_container(at, "destroy", &[], now);
        let gone = self.containers.remove(at);
        if self.departed.len() >= DEPARTED_KEPT {
            self.departed.pop_front();
        }
        self.departed.push_back((gone.id, gone.exit_code));
        self.outputs.remove(&gone.id);
        self.files.retain(|(id, _), _| *id != gone.id);
        self.execs.retain(|exec| exec.container != gone.id);
    }

    /// Records output of a container and passes it to those who follow; a slow follower loses it.
    pub fn write(&mut self, id: Ident, chunk: Chunk, now: i64) {
        let output = self.outputs.entry(id).or_default();
        output.followers.retain(|follower| !follower.is_closed());
        for follower in &output.followers {
            // A full queue is the follower's loss: a stand-in must not wait for its readers.
            let _ = follower.try_send(chunk.clone());
        }
        output.kept.push((now, chunk));
        let mut size: usize = output.kept.iter().map(|(_, (_, bytes))| bytes.len()).sum();
        let mut surplus = 0;
        while size > OUTPUT_LIMIT {
            size -= output.kept[surplus].1.1.len();
            surplus += 1;
        }
        output.kept.drain(..surplus);
    }

    /// Reads along with a container's output until it dies.
    pub fn follow(&mut self, id: Ident) -> mpsc::Receiver<Chunk> {
        let (sender, receiver) = mpsc::channel(1024);
        self.outputs.entry(id).or_default().followers.push(sender);
        receiver
    }

    fn emit_network(&mut self, at: usize, action: &str, now: i64) {
        let container = &self.containers[at];
        let mode = match container.spec.network_mode.as_str() {
            "default" => "bridge",
            mode => mode,
        };
        let Some(network) = self.networks.iter().find(|network| network.name == mode) else {
            return;
        };
        let event = Event::new("network", action, network.id.to_string())
            .with("container", container.id.to_string())
            .with("name", &network.name)
            .with("type", &network.driver);
        self.emit(event, now);
    }
}

/// The reference with `:latest` added if it names neither tag nor digest.
pub(crate) fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains([':', '@']) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

/// Output and exit code of the commands that are acted out; `None` for all that run until stopped.
pub(crate) fn act(command: &[String]) -> Option<(Bytes, i64)> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo" | "/bin/echo", rest @ ..] => Some((format!("{}\n", rest.join(" ")).into(), 0)),
        ["true" | "/bin/true"] => Some((Bytes::new(), 0)),
        ["false" | "/bin/false"] => Some((Bytes::new(), 1)),
        ["sh" | "/bin/sh", "-c", script] => {
            let code = script.strip_prefix("exit ")?.trim().parse().ok()?;
            Some((Bytes::new(), code))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_a_registry_is_no_tag() {
        assert_eq!(with_tag("host:5000/app"), "host:5000/app:latest");
        assert_eq!(with_tag("app:1"), "app:1");
    }

    #[test]
    fn acts_out_known_commands_only() {
        let act = |words: &[&str]| act(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(act(&["echo", "a", "b"]), Some(("a b\n".into(), 0)));
        assert_eq!(act(&["sh", "-c", "exit 7"]), Some((Bytes::new(), 7)));
        assert_eq!(act(&["sleep", "1"]), None);
    }
}
