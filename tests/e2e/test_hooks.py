# SPDX-License-Identifier: Apache-2.0
"""The hooks for SGLang and vLLM against servers that stand in; test_engines.py has the real ones."""

import http.server
import json
import os
import shlex
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from following import advances, follow, holds_for, make_run, wait_latest, wait_runs

HOOKS = ROOT / "examples" / "on_advance"
FOLDER = str(HOOKS)  # of a version that hooks are told of: any that is there


@pytest.fixture
def published(tmp_path):
    return make_run("xor", tmp_path)


class Server:
    """Answers as an engine does to what the hooks ask, and remembers it.  `answers`: path -> (status, text)."""

    def __init__(self, answers, port=0):
        self.requests, self.load = [], None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"] == "application/json"
                if outer.load is not None:
                    outer.load(self.path, body)
                outer.requests.append((self.path, body))
                code, text = answers.get(self.path, (404, '{"detail":"Not Found"}'))
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


SGLANG = {"/update_weights_from_disk": (200, '{"success":true,"message":"Succeeded","num_paused_requests":0}')}
RESET = "/reset_prefix_cache?reset_running_requests=true"
VLLM = {"/pause?mode=keep": (200, '{"status":"paused"}'), "/collective_rpc": (200, '{"results":[null,null]}'),
        RESET: (200, '{"success":true}'), "/resume": (200, '{"status":"resumed"}')}
ENGINES = {"sglang": SGLANG, "vllm": VLLM}


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture
def serve():
    servers = []

    def start(answers, port=0):
        servers.append(Server(answers, port))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def variable(engine):
    return f"{engine.upper()}_URL"


def wanted(engine, version, path):
    """The requests that load a version."""
    if engine == "sglang":
        return [("/update_weights_from_disk", {"model_path": path, "weight_version": version})]
    load = {"method": "reload_weights", "kwargs": {"weights_path": path}}
    return [("/pause?mode=keep", {}), ("/collective_rpc", load), (RESET, {}), ("/resume", {})]


def hook(engine, url, path=FOLDER, **environment):
    words = {"PATH": os.environ["PATH"], variable(engine): url, "WEIGHTFS_VERSION": "weight_v000007",
             "WEIGHTFS_PATH": path, "RETRY_DELAYS": "0.1 0.2"} | environment
    return subprocess.run([HOOKS / f"{engine}.sh"], env=words, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_hook_asks_the_engine_to_load_the_folder(engine, serve):
    for slash in ("", "/"):
        server = serve(ENGINES[engine])
        done = hook(engine, server.url + slash)
        assert done.returncode == 0, done.stderr
        assert server.requests == wanted(engine, "weight_v000007", FOLDER)
        assert "weight_v000007" in done.stdout


def test_hook_sends_paths_with_blanks_and_other_letters(engine, serve, tmp_path):
    server = serve(ENGINES[engine])
    path = tmp_path / "my 'best' modèle" / "100% $HOME; *"
    path.mkdir(parents=True)
    assert hook(engine, server.url, str(path)).returncode == 0
    assert server.requests == wanted(engine, "weight_v000007", str(path))


@pytest.mark.parametrize("path", ['/mnt/a"b', "/mnt/a\\b", "/mnt/a\nb", "/mnt/a\x1bb"])
def test_hook_refuses_paths_that_json_would_escape(engine, serve, path):
    server = serve(ENGINES[engine])
    done = hook(engine, server.url, path)
    assert done.returncode != 0 and "quote" in done.stderr
    assert server.requests == []


@pytest.mark.parametrize("missing", ["URL", "WEIGHTFS_PATH", "WEIGHTFS_VERSION"])
def test_hook_names_what_is_not_set(engine, serve, missing):
    name = variable(engine) if missing == "URL" else missing
    done = hook(engine, "http://127.0.0.1:1", **{name: ""})
    assert done.returncode != 0 and name in done.stderr


def test_hook_waits_for_a_server_that_is_not_up_yet(engine, serve):
    port = free_port()
    late = []
    timer = threading.Timer(0.5, lambda: late.append(serve(ENGINES[engine], port)))
    timer.start()
    done = hook(engine, f"http://127.0.0.1:{port}", RETRY_DELAYS="0.2 0.5 1 2 4 8")
    timer.join()
    assert done.returncode == 0, done.stderr
    assert late[0].requests == wanted(engine, "weight_v000007", FOLDER)


def test_hook_gives_up_on_a_server_that_does_not_come(engine):
    done = hook(engine, f"http://127.0.0.1:{free_port()}")
    assert done.returncode != 0
    assert "weight_v000007" in done.stderr and "127.0.0.1" in done.stderr


ERRORS = {"sglang": [(400, '{"success":false,"message":"Failed to update weights: no such folder"}'),
                     (404, '{"detail":"Not Found"}')],
          "vllm": [(500, '{"error":{"message":"no such folder"}}'), (404, '{"detail":"Not Found"}')]}


@pytest.mark.parametrize("number", [0, 1])
def test_hook_passes_an_error_of_the_engine_on(engine, number, serve):
    code, text = ERRORS[engine][number]
    server = serve({path: (code, text) for path in ENGINES[engine]})
    done = hook(engine, server.url)
    assert done.returncode != 0
    assert text in done.stderr and str(code) in done.stderr
    asked = [path for path, _ in server.requests]
    assert asked == {"sglang": ["/update_weights_from_disk"], "vllm": ["/pause?mode=keep", "/resume"]}[engine], "final"


@pytest.mark.parametrize("call", [path for path in VLLM if path != "/resume"])
def test_a_vllm_goes_on_whichever_call_fails(call, serve):
    server = serve(VLLM | {call: (500, '{"error":"no"}')})
    done = hook("vllm", server.url)
    assert done.returncode != 0 and call in done.stderr and "has weight_v000007" not in done.stdout
    asked = [path for path, _ in server.requests]
    assert asked == [*list(VLLM)[:list(VLLM).index(call) + 1], "/resume"]


def test_a_vllm_that_cannot_reset_its_cache_is_an_error(serve):
    """It says so with status 200."""
    server = serve(VLLM | {RESET: (200, '{"success":false}')})
    done = hook("vllm", server.url)
    assert done.returncode != 0 and "prefix cache" in done.stderr
    assert server.requests[-1] == ("/resume", {})


def test_a_vllm_that_stays_paused_is_an_error(serve):
    server = serve(VLLM | {"/resume": (500, '{"error":"no"}')})
    done = hook("vllm", server.url)
    assert done.returncode != 0 and "may still be paused" in done.stderr and "has weight_v000007" not in done.stdout


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
def test_vllm_pauses_as_it_is_told(mode, serve):
    server = serve(VLLM | {f"/pause?mode={mode}": VLLM["/pause?mode=keep"]})
    assert hook("vllm", server.url, VLLM_PAUSE=mode).returncode == 0
    assert server.requests[0] == (f"/pause?mode={mode}", {})


def test_vllm_refuses_other_pauses(serve):
    server = serve(VLLM)
    done = hook("vllm", server.url, VLLM_PAUSE="keep&x=1")
    assert done.returncode != 0 and "VLLM_PAUSE" in done.stderr
    assert server.requests == []


def test_vllm_is_not_asked_for_a_version_that_is_gone(serve, tmp_path):
    """It would end."""
    server = serve(VLLM)
    done = hook("vllm", server.url, str(tmp_path / "gone"))
    assert done.returncode != 0 and "there is no folder" in done.stderr
    assert server.requests == []


@pytest.mark.parametrize("call", ["/pause?mode=keep", "/collective_rpc"])
def test_a_vllm_goes_on_when_a_call_takes_too_long(call, serve):
    """A pause may come into force after nobody waits for it any more."""
    server = serve(VLLM)
    server.load = lambda path, _: time.sleep(2.5) if path == call else None
    done = hook("vllm", server.url, LOAD_SECONDS="1")
    assert done.returncode != 0 and call in done.stderr
    assert ("/resume", {}) in server.requests


def test_a_vllm_goes_on_when_the_hook_is_ended(published, mount, serve):
    """--advance-limit ends the process group of the hook, which has five seconds to say so."""
    server = serve(VLLM)
    server.load = lambda path, _: time.sleep(4) if path == "/collective_rpc" else None
    mounted = follow(mount, published, on_advance=f"VLLM_URL={server.url} {HOOKS / 'vllm.sh'}", advance_limit=1)
    wait_latest(mounted, published.publish())
    assert wait_runs(mounted, 1)["timeouts"] == 1
    assert [path for path, _ in server.requests][:2] == ["/pause?mode=keep", "/resume"]


def test_engine_loads_every_version_of_a_followed_run(engine, serve, published, mount, monkeypatch):
    """What the server reads in the folder that it is told of is that version, whole."""
    server = serve(ENGINES[engine])
    read = {}

    def load(path, body):
        folder = body.get("model_path") or body.get("kwargs", {}).get("weights_path")
        if folder is not None:
            files = sorted(Path(folder).glob("*.safetensors"))
            read[os.path.basename(folder)] = [file.read_bytes() for file in files]

    server.load = load
    monkeypatch.setenv(variable(engine), server.url)
    mounted = follow(mount, published, on_advance=shlex.quote(str(HOOKS / f"{engine}.sh")))
    for count in range(1, 4):
        name = published.publish()
        wait_latest(mounted, name)
        wait_runs(mounted, count)
        assert server.requests[-len(ENGINES[engine]):] == wanted(engine, name, str(mounted / name))
        assert read[name] == [path.read_bytes() for path in sorted(published.folders[name].glob("*.safetensors"))]
    found = advances(mounted)
    assert found["runs"] == 3 and found["failures"] == found["timeouts"] == found["skipped"] == 0


def test_an_engine_that_refuses_shows_in_the_status(engine, serve, published, mount, monkeypatch):
    server = serve({path: ERRORS[engine][0] for path in ENGINES[engine]})
    monkeypatch.setenv(variable(engine), server.url)
    mounted = follow(mount, published, on_advance=shlex.quote(str(HOOKS / f"{engine}.sh")))
    name = published.publish()
    wait_latest(mounted, name)
    found = wait_runs(mounted, 1)
    assert found["failures"] == 1 and found["last"]["exit_status"] == 1
    holds_for(lambda: os.readlink(mounted / "latest") == name, 0.3, "latest moved for a failed command")
