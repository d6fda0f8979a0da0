#!/usr/bin/env bash
#
# docker.sh: what the docker command does on any engine, asserted.
#
# usage: DOCKER_HOST=tcp://... tests/clients/docker.sh [SECTION]...
#
# Runs the sections named, or all: containers exec attach streams images
# events volumes networks. Nothing in here knows whether it talks to an engine
# or to Skep. The image `busybox:latest` has to be there.

# With pipefail no pipe may end in grep -q: it leaves before its input ends.
set -euo pipefail

docker=${DOCKER:-docker}
run=cli-$$
work=$(mktemp -d)

fail() {
  echo "docker.sh: $section: $*" >&2
  exit 1
}

# expect WHAT WANTED GOT
expect() { [[ $3 == "$2" ]] || fail "$1: expected \`$2\`, got \`$3\`"; }

# The command must fail, and say something that matches: refuse PATTERN COMMAND...
refuse() {
  local pattern=$1 output
  shift
  ! output=$("$docker" "$@" 2>&1) || fail "\`docker $*\` should have failed"
  grep -Eiq "$pattern" <<<"$output" || fail "\`docker $*\` failed with: $output"
}

await() {
  local what=$1 until=$((SECONDS + 60))
  shift
  until "$@"; do
    ((SECONDS < until)) || fail "waited in vain: $what"
    sleep 0.1
  done
}

show() { "$docker" inspect --format "$2" "$1"; }
is() { [[ $(show "$1" "$2" 2>/dev/null) == "$3" ]]; }
# Names without the node that Skep puts before them.
names() { "$docker" ps --filter "label=run=$run" --format '{{.Names}}' "$@" | sed 's|.*/||' | sort | paste -sd' '; }
start() { "$docker" run -d --label "run=$run" --name "$run-$1" "${@:2}"; }

section_containers() {
  local id
  id=$(start a -e COLOUR=blue -l shape=round busybox sleep 600)
  expect "the length of an id" 64 "${#id}"
  expect "an environment variable" blue "$("$docker" exec "$run-a" sh -c "echo \$COLOUR")"
  expect "a label" round "$(show "$run-a" '{{.Config.Labels.shape}}')"
  expect "an id's prefix" "$id" "$(show "${id:0:12}" '{{.Id}}')"
  expect "the list" "$run-a" "$(names)"
  refuse "already (in use|assigned)" create --name "$run-a" busybox
  "$docker" pause "$run-a" >/dev/null
  expect "a paused container" true "$(show "$run-a" '{{.State.Paused}}')"
  "$docker" unpause "$run-a" >/dev/null
  "$docker" rename "$run-a" "$run-b"
  expect "the new name" "$run-b" "$(names)"
  refuse "no such" inspect "$run-a"
  "$docker" top "$run-b" | grep "sleep 600" >/dev/null || fail "top does not show the process"
  "$docker" stats --no-stream --format '{{.PIDs}}' "$run-b" | grep -x 1 >/dev/null || fail "stats does not count the process"
  "$docker" restart -t 0 "$run-b" >/dev/null
  expect "after a restart" true "$(show "$run-b" '{{.State.Running}}')"
  "$docker" stop -t 0 "$run-b" >/dev/null
  expect "the list of what runs" "" "$(names)"
  expect "the list of all" "$run-b" "$(names -a)"
  expect "the exit code of kill -9" 137 "$("$docker" wait "$run-b")"
  "$docker" rm "$run-b" >/dev/null
  refuse "no such container" start "$run-b"
  expect "an exit code" 3 "$("$docker" run --rm --label "run=$run" busybox sh -c "exit 3" || echo $?)"
}

section_exec() {
  start exec busybox sleep 600 >/dev/null
  expect "output" hello "$("$docker" exec "$run-exec" echo hello)"
  expect "input" 5 "$(printf 'abc\nd' | "$docker" exec -i "$run-exec" wc -c | tr -d ' ')"
  expect "an exit code" 7 "$("$docker" exec "$run-exec" sh -c "exit 7" || echo $?)"
  expect "environment and directory" "/tmp x" \
    "$("$docker" exec -e V=x -w /tmp "$run-exec" sh -c "echo \$PWD \$V")"
  expect "the error stream" oops "$("$docker" exec "$run-exec" sh -c "echo oops >&2" 2>&1 >/dev/null)"
}

section_attach() {
  local output
  output=$(printf 'one\ntwo\n' | "$docker" run -i --rm --label "run=$run" busybox cat)
  expect "what cat returns at the end of its input" $'one\ntwo' "$output"
  "$docker" create -i --label "run=$run" --name "$run-attach" busybox sh -c "read line; echo got \$line" >/dev/null
  expect "start with both ends attached" "got it" "$(echo it | "$docker" start -ai "$run-attach")"
}

section_streams() {
  local sum
  start streams busybox sh -c "for i in 1 2 3; do echo out \$i; done; echo err >&2; sleep 600" >/dev/null
  await "the log is written" has_logs
  expect "the last line" "out 3" "$("$docker" logs --tail 2 "$run-streams" 2>/dev/null | tail -n 1)"
  expect "the error stream" err "$("$docker" logs "$run-streams" 2>&1 >/dev/null)"
  "$docker" run --label "run=$run" --name "$run-follow" -d busybox \
    sh -c "for i in 1 2 3; do echo \$i; sleep 0.2; done" >/dev/null
  expect "a log that is followed to its end" "1 2 3" "$("$docker" logs -f "$run-follow" | paste -sd' ')"
  head -c 3000000 /dev/urandom >"$work/data"
  sum=$(sha256sum <"$work/data")
  "$docker" cp "$work/data" "$run-streams:/tmp/data"
  expect "a file copied in" "$sum" "$("$docker" exec -i "$run-streams" sh -c "sha256sum </tmp/data")"
  "$docker" cp "$run-streams:/tmp/data" "$work/back"
  expect "a file copied out" "$sum" "$(sha256sum <"$work/back")"
  "$docker" export "$run-streams" | tar -t | grep -x tmp/data >/dev/null || fail "export lacks the file"
  "$docker" diff "$run-streams" | grep -x "A /tmp/data" >/dev/null || fail "diff lacks the file"
}
has_logs() { [[ $("$docker" logs "$run-streams" 2>&1 | wc -l) == 4 ]]; }

section_images() {
  "$docker" images --format '{{.Repository}}:{{.Tag}}' | grep -x busybox:latest >/dev/null || fail "busybox is not listed"
  expect "the command of an image" "[sh]" "$("$docker" image inspect --format '{{.Config.Cmd}}' busybox)"
  refuse "no such image" image inspect "$run-missing"
}

# Needs the routes that change images: tag, commit, save, load, rmi.
section_changes() {
  "$docker" tag busybox "$run-tag:1"
  expect "a tag" "$("$docker" image inspect --format '{{.Id}}' busybox)" \
    "$("$docker" image inspect --format '{{.Id}}' "$run-tag:1")"
  "$docker" save "$run-tag:1" >"$work/image.tar"
  "$docker" rmi "$run-tag:1" >/dev/null
  refuse "no such image" image inspect "$run-tag:1"
  "$docker" load -q <"$work/image.tar" >/dev/null
  "$docker" image inspect "$run-tag:1" >/dev/null
  "$docker" rmi "$run-tag:1" >/dev/null
}

section_events() {
  local since until
  since=$(date +%s)
  start event busybox true >/dev/null
  "$docker" wait "$run-event" >/dev/null
  "$docker" rm "$run-event" >/dev/null
  until=$(($(date +%s) + 2))
  expect "a container's life" "create start die destroy" \
    "$("$docker" events --since "$((since - 1))" --until "$until" --filter type=container --filter "label=run=$run" \
      --format "{{.Action}} {{.Actor.Attributes.name}}" |
      sed -n "s|^\([a-z]*\) \(.*/\)\{0,1\}$run-event\$|\1|p" | grep -Ev '^(attach|kill)$' | paste -sd' ')"
}

section_volumes() {
  "$docker" volume create --label "run=$run" "$run-vol" >/dev/null
  expect "the list" "$run-vol" "$("$docker" volume ls -q --filter "label=run=$run" | sed 's|.*/||' | sort -u)"
  "$docker" run --rm --label "run=$run" -v "$run-vol:/data" --name "$run-write" busybox sh -c 'echo kept >/data/file'
  "$docker" volume rm "$run-vol" >/dev/null
  refuse "no such volume" volume inspect "$run-vol"
}

section_networks() {
  "$docker" network create --driver bridge --label "run=$run" "$run-net" >/dev/null
  start server --network "$run-net" --network-alias web busybox \
    sh -c 'mkdir -p /www; echo page >/www/index.html; exec busybox httpd -f -h /www' >/dev/null
  await "a neighbour reaches the server by its alias" has_page
  "$docker" network disconnect "$run-net" "$run-server"
  expect "networks after a disconnect" "map[]" "$(show "$run-server" '{{.NetworkSettings.Networks}}')"
  "$docker" rm -f "$run-server" >/dev/null
  "$docker" network rm "$run-net" >/dev/null
  refuse "no such network|not found" network inspect "$run-net"
}
has_page() {
  [[ $("$docker" run --rm --label "run=$run" --network "$run-net" busybox wget -qO- http://web/ 2>/dev/null) == page ]]
}

clean_up() {
  local ids
  mapfile -t ids < <("$docker" ps -aq --filter "label=run=$run")
  ((${#ids[@]} == 0)) || "$docker" rm -fv "${ids[@]}" >/dev/null || true
  rm -rf "$work"
}

sections=("$@")
((${#sections[@]})) || sections=(containers exec attach streams images changes events volumes networks)
trap clean_up EXIT
for section in "${sections[@]}"; do
  "section_$section"
  echo "docker.sh: $section passed"
done
