#!/usr/bin/env bash
# Runs the same command lines with the real docker CLI and with ours against one engine and shows where stdout, stderr or
# the exit status differ. Both are called "docker", so that even usage lines must agree.
#   REAL=/usr/bin/docker OURS=/path/to/a/link/called/docker DOCKER_HOST=unix:///... cli-diff.sh [FILE with one command per line]
# Lines that begin with "! " prepare something and run once, with the real CLI.
set -u
real=${REAL:-docker} ours=${OURS:?a link called docker that leads to our binary}
dir=$(mktemp -d) same=0 different=0
trap 'rm -rf "$dir"' EXIT
while IFS= read -r line; do
  case $line in '' | '#'*) continue ;; '! '*) (docker() { "$real" "$@"; }; eval "${line#! }") >/dev/null 2>&1 </dev/null; continue ;; esac
  for who in real ours; do
    program=${!who}
    mkdir -p "$dir/work"
    (docker() { "$program" "$@"; }; cd "$dir/work" && eval "$line") >"$dir/$who.out" 2>"$dir/$who.err" </dev/null
    echo "status $?" >>"$dir/$who.err"
  done
  if cmp -s "$dir/real.out" "$dir/ours.out" && cmp -s "$dir/real.err" "$dir/ours.err"; then
    same=$((same + 1))
  else
    different=$((different + 1))
    echo "== $line"
    diff "$dir/real.out" "$dir/ours.out" | head -20
    diff "$dir/real.err" "$dir/ours.err" | head -12
  fi
done < <(cat "${1:-/dev/stdin}")
echo "$same the same, $different different"
