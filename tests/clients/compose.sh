#!/usr/bin/env bash
#
# compose.sh: what Compose v2 does on any engine, asserted.
#
# usage: DOCKER_HOST=tcp://... tests/clients/compose.sh [SECTION]...
#
# Runs the sections named, or all; they need each other, in this order: build
# up scale exec logs recreate down. Nothing in here knows whether it talks to
# an engine or to Skep. `docker compose` has to work, and the image
# `busybox:latest` has to be there.

# With pipefail no pipe may end in grep -q: it leaves before its input ends.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
docker=${DOCKER:-docker}
project=compose-$$

compose() { "$docker" compose --ansi never --progress plain -f "$here/compose/compose.yaml" -p "$project" "$@"; }

fail() {
  echo "compose.sh: $section: $*" >&2
  exit 1
}

# expect WHAT WANTED GOT
expect() { [[ $3 == "$2" ]] || fail "$1: expected \`$2\`, got \`$3\`"; }

# Runs a command that prints its progress; it is shown if the command fails.
quietly() {
  local output
  output=$("$@" 2>&1) || fail "\`$*\` failed: $output"
}

# What `ps` shows, without the node that Skep puts before a name.
services() { compose ps "$@" --format '{{.Service}} {{.State}}' | sort | paste -sd,; }
in_project() { "$docker" "$@" --filter "label=com.docker.compose.project=$project"; }

section_build() {
  quietly compose build
  expect "the image's label" "$project" \
    "$("$docker" image inspect --format '{{index .Config.Labels "com.docker.compose.project"}}' "$project-web")"
}

section_up() {
  quietly compose up -d
  expect "what runs" "client running,web running,worker running" "$(services)"
  expect "what ran" "client running,once exited,web running,worker running" "$(services -a)"
  expect "the health" healthy "$(compose ps --format '{{.Health}}' web)"
  expect "the project" "running(3)" "$(compose ls --filter "name=$project" --format json | grep -o 'running([0-9]*)')"
  expect "what a second up changes" "" "$(compose up -d 2>&1 | grep -E "Creating|Recreate" || true)"
}

section_scale() {
  quietly compose up -d --no-recreate --scale client=3
  expect "three of one service" 3 "$(compose ps -q client | wc -l)"
  quietly compose up -d --no-recreate --scale client=1
  expect "one of one service" 1 "$(compose ps -q client | wc -l)"
}

section_exec() {
  expect "output" blue "$(compose exec -T web sh -c "echo \$COLOUR")"
  expect "an exit code" 7 "$(compose exec -T web sh -c "exit 7" || echo $?)"
  expect "input" 3 "$(printf abc | compose exec -T web wc -c | tr -d ' ')"
  expect "a neighbour by its service's name" hello "$(compose exec -T client wget -qO- http://web/)"
  expect "a shared volume" kept "$(compose exec -T worker cat /pages/kept)"
  expect "a run of its own" hello "$(compose run --rm -T --no-deps client wget -qO- http://www/ 2>/dev/null)"
  quietly compose cp "$here/compose/compose.yaml" worker:/tmp/copied
  expect "a file copied in" "$(sha256sum <"$here/compose/compose.yaml")" "$(compose exec -T worker sh -c "sha256sum </tmp/copied")"
}

section_logs() {
  expect "the log of a service" hello "$(compose logs --no-log-prefix --no-color client | tr -cd "[:alpha:]" | sed "s/^K//")"
  expect "top" 1 "$(compose top worker | grep -c 'sleep 86400')"
}

section_recreate() {
  local before
  before=$(compose ps -q web)
  quietly env COLOUR=red "$docker" compose --progress plain -f "$here/compose/compose.yaml" -p "$project" up -d web
  [[ $(compose ps -q web) != "$before" ]] || fail "a changed service kept its container"
  expect "the changed environment" red "$(compose exec -T web sh -c "echo \$COLOUR")"
  quietly compose stop -t 0 web
  expect "a stopped service" "web exited" "$(services -a web)"
  quietly compose start web
  expect "a started service" "web running" "$(services web)"
}

section_down() {
  quietly compose down -v -t 0 --rmi local
  expect "containers after down" "" "$(in_project ps -aq)"
  expect "networks after down" "" "$(in_project network ls -q)"
  expect "volumes after down" "" "$(in_project volume ls -q)"
  expect "images after down" "" "$("$docker" images -q "$project-web")"
}

clean_up() {
  compose down -v -t 0 --rmi local >/dev/null 2>&1 || true
}

sections=("$@")
((${#sections[@]})) || sections=(build up scale exec logs recreate down)
trap clean_up EXIT
for section in "${sections[@]}"; do
  "section_$section"
  echo "compose.sh: $section passed"
done
