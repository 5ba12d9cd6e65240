"""Laws of the hub: what is pushed is what is loaded; a card in the hub's format; every refusal is one sentence."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import FakeHub, fake_hub
from psla.weights.catalogue import resolve, scheme_of
from psla.weights.hub import Address, HubError

pytest.importorskip("huggingface_hub", reason="needs the extra hub")
MODEL = "esc10-lite0"
LOAD = "import psla, sys; found = psla.load(sys.argv[1]); print(len(found.model.vocabulary))"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub() as served:
        yield served


def run(hub: FakeHub, home: Path, *command: str, offline: str = "") -> subprocess.CompletedProcess[str]:
    """A command with this hub, and a home of its own."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    environment |= {"PSLA_OFFLINE": offline, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


def test_what_is_pushed_is_what_is_loaded(hub: FakeHub, tmp_path: Path) -> None:
    """A model file comes back byte by byte, by the same address; once there, it is there without the hub, too."""
    onnx = tmp_path / "any.onnx"
    onnx.write_bytes(b"onnx")
    model = resolve(MODEL)
    pushed = run(hub, tmp_path, "-m", "psla", "push", str(model), "hf://me/birds", "--onnx", str(onnx))
    assert pushed.returncode == 0, pushed.stderr
    assert f"{hub.url}/me/birds/commit/" in pushed.stdout
    files = hub.repositories["me/birds"]
    assert set(files) == {"model.safetensors", "README.md", "model.onnx"}
    assert files["model.safetensors"] == model.read_bytes()

    early = run(hub, tmp_path, "-m", "psla", "info", "hf://me/birds", offline="1")
    assert early.returncode == 2
    assert "hf://me/birds: model.safetensors is not in the hub's cache, and PSLA_OFFLINE is set" in early.stderr
    loaded = run(hub, tmp_path, "-c", LOAD, "hf://me/birds")
    assert loaded.stdout == "10\n", loaded.stderr
    asked = len(hub.asked)
    assert run(hub, tmp_path, "-c", LOAD, "hf://me/birds", offline="1").stdout == "10\n"
    assert len(hub.asked) == asked

    refused = run(hub, tmp_path, "-m", "psla", "push", str(model), "hf://me/birds", offline="1")
    assert "nothing is sent while PSLA_OFFLINE is set" in refused.stderr
    hub.fails = 403
    try:
        refused = run(hub, tmp_path, "-m", "psla", "push", str(model), "hf://me/other")
    finally:
        hub.fails = 0
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "psla: hf://me/other: " in refused.stderr
    missing = run(hub, tmp_path, "-m", "psla", "info", "hf://me/nothing")
    assert missing.returncode == 2
    assert missing.stderr.startswith("psla: hf://me/nothing: ")


def test_the_card_is_one_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    """The hub's own library reads the card: licence, library, kind of model, tags; both ways of use stand in it."""
    from huggingface_hub import ModelCard

    from psla.model.file import load_model
    from psla.weights.hub import card

    model = load_model(resolve(MODEL))
    text = card(model, Address("me/birds"), onnx=True)
    read = ModelCard(text)
    assert read.data.library_name == "psla"
    assert read.data.pipeline_tag == "audio-classification"
    assert "audio-tagging" in (read.data.tags or [])
    assert read.data.license
    for result in read.data.eval_results or []:
        assert result.metric_type == "mean_average_precision"
    assert 'psla.load("hf://me/birds")' in text
    assert "onnxruntime.InferenceSession" in text
    assert "onnxruntime" not in card(model, Address("me/birds"))
    for example in text.split("```python")[1:]:
        compile(example.split("```")[0], "card", "exec")


@pytest.mark.parametrize("text", ["hf://birds", "hf://", "hf://a/b/c", "hf://me/birds@", "hf://me/b ird"])
def test_what_is_no_address(text: str) -> None:
    """An address has an organisation and a name; all else is refused with the form that is meant."""
    assert scheme_of(text) == "hf://"
    with pytest.raises(HubError, match="is no address on the hub: write hf://ORG/NAME"):
        resolve(text)
