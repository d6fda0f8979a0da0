// What dockerode does on any engine, asserted.
//
// usage: DOCKER_HOST=tcp://... node tests/clients/sdk_node.mjs [SECTION]...
//
// Runs the sections named, or all. Nothing in here knows whether it talks to an engine or to
// Skep. The image `busybox:latest` has to be there.

import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import Docker from "dockerode";

const docker = new Docker();
const image = "busybox:latest";
const run = `js-${process.pid}`;
const filters = JSON.stringify({ label: [`run=${run}`] });

const create = (name, options) =>
  docker.createContainer({ name: `${run}-${name}`, Image: image, Labels: { run }, ...options });

async function start(name, options) {
  const container = await create(name, options);
  await container.start();
  return container;
}

// Resolves to what a multiplexed stream carried, by the time it ends.
async function demux(stream) {
  const [out, err] = [new PassThrough(), new PassThrough()];
  docker.modem.demuxStream(stream, out, err);
  stream.on("end", () => {
    out.end();
    err.end();
  });
  return Promise.all([text(out), text(err)]);
}

const refused = (promise, status) => assert.rejects(promise, (error) => error.statusCode === status);

const sections = {
  async containers() {
    const box = await start("box", { Cmd: ["sleep", "600"], Env: ["COLOUR=blue"] });
    const { State, Config } = await box.inspect();
    assert.equal(State.Running, true);
    assert.ok(Config.Env.includes("COLOUR=blue"));
    assert.deepEqual((await docker.listContainers({ filters })).map(({ Id }) => Id), [box.id]);
    await refused(create("box", {}), 409);
    await box.kill();
    assert.equal((await box.wait()).StatusCode, 137);
    await box.remove();
    await refused(box.inspect(), 404);
  },

  async exec() {
    const box = await start("exec", { Cmd: ["sleep", "600"] });
    const exec = await box.exec({
      Cmd: ["sh", "-c", "echo out; echo err >&2; exit 5"],
      AttachStdout: true,
      AttachStderr: true,
    });
    assert.deepEqual(await demux(await exec.start({})), ["out\n", "err\n"]);
    assert.equal((await exec.inspect()).ExitCode, 5);
  },

  async attach() {
    const box = await create("attach", {
      Cmd: ["sh", "-c", "read line; echo got $line"],
      OpenStdin: true,
      StdinOnce: true,
      AttachStdin: true,
    });
    const stream = await box.attach({ stream: true, stdin: true, stdout: true, hijack: true });
    await box.start();
    const output = demux(stream);
    stream.write("it\n");
    assert.deepEqual(await output, ["got it\n", ""]);
  },

  async streams() {
    const box = await start("streams", { Cmd: ["sh", "-c", "echo a; echo b; sleep 1; echo c"] });
    const log = await box.logs({ follow: true, stdout: true, stderr: true });
    assert.deepEqual(await demux(log), ["a\nb\nc\n", ""]);
  },

  async images() {
    const tags = (await docker.listImages()).flatMap(({ RepoTags }) => RepoTags ?? []);
    assert.ok(tags.includes(image));
    assert.deepEqual((await docker.getImage(image).inspect()).Config.Cmd, ["sh"]);
    await refused(docker.getImage(`${run}-missing`).inspect(), 404);
  },

  async changes() {
    await docker.getImage(image).tag({ repo: `${run}-tag`, tag: "1" });
    await docker.getImage(`${run}-tag:1`).remove();
    await refused(docker.getImage(`${run}-tag:1`).inspect(), 404);
  },

  async events() {
    const since = Math.floor(Date.now() / 1000) - 1;
    const box = await start("event", { Cmd: ["true"] });
    await box.wait();
    await box.remove();
    const until = Math.floor(Date.now() / 1000) + 2;
    const wanted = JSON.stringify({ type: ["container"], container: [box.id] });
    const lines = (await text(await docker.getEvents({ since, until, filters: wanted }))).trim();
    const life = lines.split("\n").map((line) => JSON.parse(line).Action);
    assert.deepEqual(
      life.filter((action) => ["create", "start", "die", "destroy"].includes(action)),
      ["create", "start", "die", "destroy"],
    );
  },

  async volumes() {
    await docker.createVolume({ Name: `${run}-vol`, Labels: { run } });
    const volume = docker.getVolume(`${run}-vol`);
    assert.equal((await volume.inspect()).Driver, "local");
    await volume.remove();
    await refused(volume.inspect(), 404);
  },

  async networks() {
    const network = await docker.createNetwork({ Name: `${run}-net`, Driver: "bridge", Labels: { run } });
    const box = await start("net", { Cmd: ["sleep", "600"], HostConfig: { NetworkMode: `${run}-net` } });
    await network.disconnect({ Container: box.id });
    assert.deepEqual((await box.inspect()).NetworkSettings.Networks, {});
    await box.remove({ force: true });
    await network.remove();
    await refused(network.inspect(), 404);
  },
};

try {
  const names = process.argv.slice(2);
  for (const name of names.length ? names : Object.keys(sections)) {
    await sections[name]();
    console.log(`sdk_node.mjs: ${name} passed`);
  }
} finally {
  for (const { Id } of await docker.listContainers({ all: true, filters })) {
    await docker.getContainer(Id).remove({ force: true, v: true });
  }
}
