"""An endpoint that requires a key, and the errors when it cannot be called."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from recipe.cli import main
from recipe.config import EvalConfig
from recipe.errors import BadConfig, BadInput
from recipe.evaluation.scorers import EndpointScorer, open_scorer

pytestmark = pytest.mark.usefixtures("undrawn")

KEY = "a-very-secret-key"
ARTIFACT = "output/rerank/stage4_export/onnx"


class _Guarded(BaseHTTPRequestHandler):
    """Ranks by the length of a passage, for requests with the key."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(self.headers.get("authorization"))
        if self.headers.get("authorization") != f"Bearer {KEY}":
            self._answer(401, {"error": f"not with {self.headers.get('authorization')}"})
            return
        lengths = [float(len(passage["text"])) for passage in body["passages"]]
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        rankings = [{"index": index, "logit": lengths[index]} for index in order]
        self._answer(200, {"rankings": rankings})

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[HTTPServer]:
    """A server that requires KEY; `asked` holds every authorization header that it got."""
    with HTTPServer(("127.0.0.1", 0), _Guarded) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_the_key_is_sent_when_its_variable_is_named_and_stands_nowhere(
    copied: Path,
    guarded: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    url = f"http://127.0.0.1:{guarded.server_port}"
    command = ["compare", ARTIFACT, url, "-c", "c.toml"]
    assert main(command) == 1
    output = capsys.readouterr().err
    assert "set nim_api_key_env" in output
    # The key is sent to no server but the one it is for.
    assert set(guarded.asked) == {None}
    assert main([*command, "nim_api_key_env=NOBODYS_KEY"]) == 1
    assert "no key in the environment variable NOBODYS_KEY" in capsys.readouterr().err
    # It ranks differently, and the report says so; better by chance, so it is no failure.
    assert main([*command, "nim_api_key_env=MY_KEY"]) == 0
    said = capsys.readouterr()
    output += said.err + said.out
    assert "Quality first changes between A and B" in output
    assert guarded.asked[-1] == f"Bearer {KEY}"
    assert KEY not in output
    for path in Path().rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_refusal_names_the_setting_of_the_key(guarded: HTTPServer) -> None:
    url = f"http://127.0.0.1:{guarded.server_port}"
    key = "teacher_api_key_env"
    with (
        closing(open_scorer(url, None, 8, EvalConfig(), key_setting=key)) as scorer,
        pytest.raises(BadInput, match="set teacher_api_key_env to the name"),
    ):
        scorer.score("q", ["a"])


def test_the_key_goes_to_one_server_only(
    copied: Path,
    guarded: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    url = f"http://127.0.0.1:{guarded.server_port}"
    key = "nim_api_key_env=MY_KEY"
    for other in ("http://localhost:1", "http://h:x"):
        assert main(["compare", url, other, "-c", "c.toml", key]) == 1
        assert guarded.asked == []
    assert "wanted two URLs" in capsys.readouterr().err
    assert main(["compare", url, f"{url}/", "-c", "c.toml", key]) == 0


def test_eval_looks_for_the_key_before_it_measures(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["eval", "-c", "c.toml", "eval_nim=true", "nim_api_key_env=NOBODYS_KEY"]
    assert main(args) == 1
    assert "no key in the environment variable NOBODYS_KEY" in capsys.readouterr().err
    assert main(["eval", "-c", "c.toml", "eval_nim=true", "nim_url=localhost:8000"]) == 1
    assert "does not begin with http" in capsys.readouterr().err


def test_a_password_in_the_url_is_no_part_of_the_report() -> None:
    scorer = EndpointScorer("http://me:secret@localhost:1", None, 8, 0.1)
    assert scorer.source == "http://localhost:1"
    with pytest.raises(BadInput, match="returned no ranking") as caught:
        scorer.score("q", ["a"])
    assert "secret" not in str(caught.value)
    scorer.close()


@pytest.mark.parametrize("url", ["http://", "http://h:99999", "ftp://h"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadConfig, match="cannot be called"):
        EndpointScorer(url, None, 8, 1.0)


def test_compare_uses_settings_or_refuses_them(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("output/rerank/stage3_eval").rename("elsewhere")
    checkpoint = "output/rerank/stage2_finetune/checkpoints/LATEST/model/consolidated"
    command = ["compare", checkpoint, ARTIFACT]
    assert main([*command, "output_dir=elsewhere", "-c", "c.toml", "eval.batch_size=2"]) == 0
    assert (Path("elsewhere") / "compare" / "drift.md").is_file()
    for setting, message in (
        ("top_k=3", "run eval with this setting first"),
        ("eval.k_values=[1]", "found eval.k_values, wanted one of output_dir"),
        ("nim_model=x", "ranks with the model that it serves"),
        ("finetune.seed=3", "found finetune.seed"),
        ("topk=3", "the nearest one is 'top_k'"),
    ):
        assert main([*command, "-c", "c.toml", setting]) == 1
        assert message in capsys.readouterr().err
