#!/usr/bin/env bash
# A stranger's first five minutes without the checkout: the wheel, a clean environment, another
# folder, another home. The lab's demo runs without a network; the market comes up, answers a
# chat, and its books balance while it runs and after it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

READY_S_MAX=240
STOP_S_MAX=60
LAB_S_MAX=60

uv=$(command -v uv || echo "$PWD/.venv/bin/uv")
folder=$(mktemp -d)
up_pid=

finish() {
  local status=$?
  if [ -n "$up_pid" ] && kill -0 "$up_pid" 2>/dev/null; then
    kill -TERM "$up_pid" || true
    wait_until $STOP_S_MAX gone || kill -KILL "$up_pid" || true
  fi
  if [ "$status" -ne 0 ] && [ -s "$folder/up.log" ]; then tail -n 40 "$folder/up.log" >&2; fi
  rm -rf "$folder"
}
trap finish EXIT

# wait_until SECONDS CONDITION: polls twice a second.
wait_until() {
  local deadline=$((SECONDS + $1))
  until "$2"; do
    if [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
    sleep 0.5
  done
}
gone() { ! kill -0 "$up_pid" 2>/dev/null; }
ready_or_gone() { [ -s "$folder/ready.json" ] || gone; }
field() { "$python" -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$@"; }

"$uv" build --quiet --wheel --out-dir "$folder/dist"
# The lock's versions as constraints: a release made elsewhere today must not redden this run.
"$uv" export --quiet --frozen --no-dev --no-emit-project --no-hashes -o "$folder/locked.txt"
"$uv" venv --quiet --python "$PWD/.venv/bin/python" "$folder/env"
"$uv" pip install --quiet --python "$folder/env" -c "$folder/locked.txt" "$folder"/dist/*.whl

python="$folder/env/bin/python"
coster="$folder/env/bin/coster"
mkdir "$folder/home" "$folder/elsewhere"
cd "$folder/elsewhere"
export HOME="$folder/home"
unset PYTHONPATH VIRTUAL_ENV

# Without a network where a process may have none of its own; a container may forbid that.
offline=()
if unshare -rn true 2>/dev/null; then offline=(unshare -rn); fi
"${offline[@]}" timeout $LAB_S_MAX "$coster" sim run demo --out "$folder/lab"
[ -s "$folder/lab/report.html" ]
if grep -q -E '<script|https?://' "$folder/lab/report.html"; then
  echo "the report asks for something that is not in it" >&2
  exit 1
fi

port=$("$python" -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
"$coster" up --json --data "$folder/data" --port "$port" >"$folder/ready.json" 2>"$folder/up.log" &
up_pid=$!
wait_until $READY_S_MAX ready_or_gone || true
if ! [ -s "$folder/ready.json" ]; then
  echo "the market was not ready within $READY_S_MAX s" >&2
  exit 1
fi
grep -q '"ready": *true' "$folder/ready.json" || { cat "$folder/ready.json" >&2; exit 1; }
echo "ready"

(umask 077 && printf 'Authorization: Bearer %s\n' "$(field "$folder/ready.json" api_key)" >"$folder/auth")
curl --fail-with-body -sS --max-time 120 -H @"$folder/auth" -H 'Content-Type: application/json' \
  -d '{"model": "coster/demo", "messages": [{"role": "user", "content": "What is coster?"}]}' \
  -o "$folder/answer.json" "$(field "$folder/ready.json" api_base)/chat/completions"
"$python" - "$folder/answer.json" <<'CHECK'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    answer = json.load(file)
text = answer["choices"][0]["message"]["content"]
assert text.strip(), answer
assert answer["usage"]["completion_tokens"] > 0, answer
print("answered:", text)
CHECK

"$coster" ledger verify --data "$folder/data"
"$coster" down --data "$folder/data"
wait_until $STOP_S_MAX gone || { echo "still up $STOP_S_MAX s after down" >&2; exit 1; }
"$coster" ledger verify --data "$folder/data"
echo "the wheel runs the demo away from its checkout"
