"""Export: an ONNX file says what its model says, whoever runs it; what it may not say is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import psla
from psla.cli import app
from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.model.ensemble import Ensemble
from psla.model.file import Model, ModelCard, save_model
from psla.model.frontends.contract import FrontEndSettings, build_front_end
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.frontends.stft import StftConfig
from psla.model.inference import tag_waveforms
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.tagging.tagger import Tagger
from toy_ears import forget, register

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

from psla.export import kept, write  # noqa: E402
from psla.export.graph import ExportError  # noqa: E402
from psla.export.kept import kept_graph  # noqa: E402
from psla.export.session import ExportedError, load_exported  # noqa: E402
from psla.export.write import Sounds, export  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = Path(__file__).parents[1] / "examples"
CLASSES = Vocabulary.audioset().part(["/m/0jbk", "/m/06mb1", "/m/0bt9lr"])
KINDS: dict[str, tuple[FrontEndSettings, dict[str, object]]] = {
    "kaldi": (FrontEndConfig(frames=64, padding="masked"), {"heads": 2, "familiarity": 4}),
    "stft": (
        StftConfig(frames=100, shortest_frames=40, repeat_frames=10, peak_dbfs=-3.0, most_gain_db=20.0, mel_bins=64),
        {"heads": 0, "head": "mlp"},
    ),
}
LENGTHS = (0.004, 0.03, 0.15, 0.25, 0.399, 0.5, 0.64, 0.801, 1.0, 3.3)  # seconds; windows are 0.65 and 1 s


@cache
def random_model(kind: str, seed: int = 0) -> Model[TaggingNetwork]:
    """A network of four convolutions whose norms have seen a batch, and whose familiarity says something."""
    front_end, options = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = NetworkConfig("toy", 3, batch_norm_momentum=1.0, front_end=front_end, **options)  # type: ignore[arg-type]
        network = TaggingNetwork(config)
        network.train()(torch.randn(4, front_end.window_samples) * torch.tensor([[0.001], [0.01], [0.1], [0.3]]))
        if network.familiarity is not None:
            network.familiarity.weight.normal_()
    card = ModelCard(licence="CC BY 4.0", thresholds={CLASSES.ids[1]: 0.25}, provenance={"run": "tests"})
    return Model(network.eval(), CLASSES, card)


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """(samples,) int16: noise that comes and goes."""
    samples = max(1, round(seconds * rate))
    rng = np.random.default_rng(seed)
    return (3000 * rng.standard_normal(samples) * np.hanning(samples + 2)[1:-1]).astype(np.int16)


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    """The backbone of four convolutions, as long as these tests run; tracing takes seconds, so it is done once."""
    register()
    traced = write.export_graph
    graphs: dict[object, bytes] = {}

    def once(network: torch.nn.Module) -> onnx.ModelProto:
        if network not in graphs:
            graphs[network] = traced(network).SerializeToString()
        return onnx.ModelProto.FromString(graphs[network])

    write.export_graph = once
    yield
    write.export_graph = traced
    forget()


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Path]]:
    """A model and the file that was exported of it."""
    model = random_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    rate = model.network.sample_rate
    sounds = Sounds(["a", "b"], [noise(0.3, rate), noise(2.0, rate, 1)])
    parity = export(model, folder / "out.onnx", sounds=sounds)
    assert parity.largest < 1e-5
    assert parity.same_class == 1
    yield model, folder / "out.onnx"
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_front_end_in_plain_operations_hears_the_same(kind: str) -> None:
    """Law: the form that is exported gives the same log-mel within what float32 rounds off, for any length."""
    front_end = build_front_end(KINDS[kind][0])
    plain, low, high = front_end.for_export(), front_end.config.shortest_samples, front_end.config.window_samples
    for samples in sorted({low, (low + high) // 2 + 7, high}):
        wave = torch.from_numpy(noise(samples / front_end.config.sample_rate, front_end.config.sample_rate))[None]
        wanted = front_end.log_mel(wave, torch.tensor([samples]))
        found = plain.log_mel(wave.float() / 32768, torch.tensor([samples]) if low == high else None)
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().max()) < 1e-3
        assert float((found - wanted).abs().mean()) < 1e-5


def test_it_says_the_same(pair: tuple[Model, Path]) -> None:
    """Law: recordings of any length, short, repeated, padded, longer than a window, get the same probabilities within
    1e-5, the same times, flags and familiarity."""
    model, path = pair
    ours, theirs = Tagger(model), psla.load(path)
    for seconds in LENGTHS:
        wave = noise(seconds, ours.sample_rate)
        want, found = (each.tag(wave, sample_rate=ours.sample_rate) for each in (ours, theirs))
        np.testing.assert_allclose(found.clip_probabilities, want.clip_probabilities, atol=1e-5, err_msg=str(seconds))
        np.testing.assert_allclose(found.frames, want.frames, atol=1e-5, err_msg=str(seconds))
        np.testing.assert_array_equal(found.times, want.times)
        assert found.flags == want.flags
        embedded, wanted = theirs.embed(wave, ours.sample_rate), ours.embed(wave, ours.sample_rate)
        np.testing.assert_allclose(embedded.clip, wanted.clip, atol=1e-4)
        np.testing.assert_allclose(embedded.steps, wanted.steps, atol=1e-4)
        mine, its = (tag_waveforms(each.model.network, [wave], ours.sample_rate).familiarity for each in (ours, theirs))
        assert (mine is None) == (its is None)
        if mine is not None:
            np.testing.assert_allclose(its, mine, atol=1e-3)


def test_a_waveform_gets_the_same_bits_whatever_is_tagged_with_it(pair: tuple[Model, Path]) -> None:
    """Law: as with the network itself."""
    network = psla.load(pair[1]).model.network
    waves = [noise(each, network.sample_rate, seed) for seed, each in enumerate((0.5, 0.2, 0.5))]
    together = tag_waveforms(network, waves, network.sample_rate).clip_probabilities
    for row, wave in enumerate(waves):
        assert torch.equal(tag_waveforms(network, [wave], network.sample_rate).clip_probabilities[0], together[row])


def test_the_graph_takes_batches(pair: tuple[Model, Path]) -> None:
    """Law: rows of a batch are what they are alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(pair[1])
    batch = np.stack([noise(0.5, pair[0].network.sample_rate, seed) for seed in range(3)]).astype(np.float32) / 32768
    together = session.run(None, {"waveform": batch})
    for row in range(3):
        for whole, alone in zip(together, session.run(None, {"waveform": batch[[row]]}), strict=True):
            np.testing.assert_allclose(whole[[row]], alone, atol=2e-6)


def test_the_file_says_what_it_is(pair: tuple[Model, Path]) -> None:
    """Law: classes, thresholds, licence and card come back; the file names nobody's folders."""
    model, path = pair
    again = load_exported(path)
    assert again.vocabulary.to_dict() == model.vocabulary.to_dict()
    assert again.card == model.card
    written = onnx.load(path)
    said = {each.key: each.value for each in written.metadata_props}
    assert json.loads(said["thresholds"]) == model.card.thresholds
    assert said["licence"] == "CC BY 4.0"
    assert json.loads(said["parity"])["largest"] < 1e-5
    assert os.fsencode(Path(psla.__file__).parent) not in path.read_bytes()
    report = json.loads(path.with_suffix(".parity.json").read_text())
    assert [each["id"] for each in report["per_class"]] == model.vocabulary.ids


def test_the_command_line_tags_with_it(pair: tuple[Model, Path], tmp_path: Path) -> None:
    """Law: `psla tag out.onnx` gives the rows that the model file gives: classes, events, flags."""
    model, path = pair
    own = save_model(tmp_path / "own.safetensors", model.network, model.vocabulary, model.card)
    soundfile.write(tmp_path / "a.wav", noise(2.3, 44100), 44100)
    rows = []
    for each in (own, path):
        done = CliRunner().invoke(app, ["tag", str(each), str(tmp_path / "a.wav"), "--json", "--events", "--top", "3"])
        assert done.exit_code == 0, done.output
        rows.append(json.loads(done.stdout)[0])
    assert rows[0].keys() == rows[1].keys()
    for mine, its in zip(rows[0]["classes"], rows[1]["classes"], strict=True):
        assert mine["id"] == its["id"]
        assert abs(mine["probability"] - its["probability"]) < 2e-4  # as printed
    assert [e["id"] for e in rows[0]["events"]] == [e["id"] for e in rows[1]["events"]]
    assert [e["onset_s"] for e in rows[0]["events"]] == [e["onset_s"] for e in rows[1]["events"]]


def test_the_engine_is_asked_for_once_and_told(
    pair: tuple[Model, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: `--engine onnxruntime` makes a model's graph once; from then on it is what `psla tag` uses, and says so,
    unless PyTorch is asked for; the bits are those of the exported file."""
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    model = pair[0]
    own = save_model(tmp_path / "own.safetensors", model.network, model.vocabulary, model.card)
    soundfile.write(tmp_path / "a.wav", noise(2.3, 44100), 44100)

    def tagged(*more: str, of: Path = own) -> tuple[list[dict[str, Any]], bool]:
        done = CliRunner().invoke(app, ["tag", str(of), str(tmp_path / "a.wav"), "--json", *more])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout), "ONNX Runtime" in done.stderr

    plain, told = tagged()
    assert not told
    assert not (tmp_path / "cache").exists()
    first, told = tagged("--engine", "onnxruntime")
    assert told
    (graph,) = (tmp_path / "cache" / "graphs").glob("*.onnx")
    before = graph.stat().st_mtime_ns
    assert tagged() == (first, True)
    assert tagged("--engine", "onnxruntime") == (first, True)
    assert graph.stat().st_mtime_ns == before
    assert tagged(of=graph) == (first, True)
    assert tagged("--engine", "pytorch") == (plain, False)
    for more, sentence in (
        (["--precision", "folded", "--engine", "onnxruntime"], "leave out --precision folded"),
        (["--cluster", "ray", "--engine", "onnxruntime"], "on this machine alone"),
        (["--model", str(graph), "--engine", "pytorch"], "is for ONNX Runtime"),
    ):
        refused = CliRunner().invoke(
            app, ["tag", *([] if "--model" in more else [str(own)]), str(tmp_path / "a.wav"), *more]
        )
        assert (refused.exit_code, sentence in refused.stderr) == (2, True), refused.output
    graph.write_bytes(graph.read_bytes()[:1000])  # a disk that was full
    damaged = CliRunner().invoke(app, ["tag", str(own), str(tmp_path / "a.wav")])
    assert (damaged.exit_code, f"kept in the cache for {own}: delete it" in damaged.stderr) == (2, True), damaged.output
    own.write_bytes(pair[1].read_bytes())  # not the model of the graph: another graph is looked for
    assert kept_graph(own) != graph


def test_a_graph_that_says_something_else_is_not_kept(
    pair: tuple[Model, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: what is kept has been compared; an ensemble's file does not stand for its members."""
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "MOST_DIFFERENCE", -1.0)
    model = pair[0]
    own = save_model(tmp_path / "own.safetensors", model.network, model.vocabulary, model.card)
    with pytest.raises(kept.EngineError, match="use --engine pytorch"):
        kept.keep_graph(own)
    assert not [each.name for each in kept_graph(own).parent.iterdir() if each.suffix in (".onnx", ".json")]
    with pytest.raises(kept.EngineError, match="only the graph of one model file"):
        kept.keep_graph(tmp_path / "ensemble.json")


def answers_elsewhere(command: list[str], model: Model, path: Path, folder: Path, **environment: str) -> None:
    """That another program's answer to a WAV file is psla's."""
    rate = model.network.sample_rate
    for seconds in (0.3, 0.6):
        soundfile.write(folder / "a.wav", noise(seconds, rate), rate, subtype="PCM_16")
        done = subprocess.run(
            [*command, str(path), str(folder / "a.wav")],
            capture_output=True,
            text=True,
            timeout=250,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        wanted = Tagger(model).tag(folder / "a.wav").clip_probabilities
        assert [each["id"] for each in found] == model.vocabulary.ids
        np.testing.assert_allclose([each["probability"] for each in found], wanted, atol=1e-5)


def test_forty_lines_of_python_get_the_same_answer(pair: tuple[Model, Path], tmp_path: Path) -> None:
    """Law: a program without psla, in a process that cannot import it, says the same."""
    script = EXAMPLES / "tag.py"
    assert len(script.read_text().splitlines()) <= 40
    code = (
        "import runpy, sys; sys.modules['psla'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], None, '__main__')"
    )
    answers_elsewhere([sys.executable, "-c", code, str(script)], *pair, tmp_path)


@pytest.mark.parametrize("runtime", ["onnxruntime-node", "onnxruntime-web"])
def test_forty_lines_of_javascript_get_the_same_answer(pair: tuple[Model, Path], tmp_path: Path, runtime: str) -> None:
    """Law: so does a program in JavaScript, where Node and the runtime are installed (`NODE_PATH`)."""
    script = EXAMPLES / "tag.js"
    assert len(script.read_text().splitlines()) <= 40
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", f"require('{runtime}')"], capture_output=True).returncode:
        pytest.skip(f"Node with {runtime} is not installed: npm install {runtime}, and NODE_PATH to its folder")
    answers_elsewhere([node, str(script)], *pair, tmp_path, ORT=runtime)


@pytest.mark.soak
def test_an_ensemble_is_one_graph(tmp_path: Path) -> None:
    """Law: members side by side, averaged, say what the ensemble says; members of other rates are refused."""
    members = [random_model("kaldi", seed).network for seed in (0, 1)]
    model = Model(Ensemble(members), CLASSES, ModelCard())
    parity = export(model, tmp_path / "two.onnx", sounds=Sounds(["a"], [noise(1.5, model.network.sample_rate)]))
    assert max(parity.largest, parity.frames_largest) < 1e-5
    mixed = Model(Ensemble([members[0], random_model("stft").network]), CLASSES, ModelCard())
    with pytest.raises(ExportError, match="differ in sample rate"):
        export(mixed, tmp_path / "mixed.onnx")


def test_smaller_precisions(tmp_path: Path) -> None:
    """Law: float16 and int8 files are smaller and say nearly the same; int8 that loses more than it may, or of which
    nobody knows what it loses, is not written but by force; without frames psla does not run a file."""
    model = random_model("kaldi")
    rate = model.network.sample_rate
    waves, ids = [noise(0.6, rate, seed) for seed in range(9)], [f"clip{n}" for n in range(9)]
    labels = Labels.from_sets(ids, [[CLASSES.ids[n % 3]] for n in range(9)], CLASSES)
    plain, out = Sounds(ids, waves), tmp_path / "out.onnx"
    assert export(model, out, "float16", frames=False, sounds=plain).largest < 5e-3
    assert max(each.data_type for each in onnx.load(out).graph.initializer if each.name.endswith("_half")) == 10
    with pytest.raises(ExportedError, match="without frames"):
        load_exported(out)
    with pytest.raises(ExportError, match="not known without labels"):
        export(model, tmp_path / "no.onnx", "int8", sounds=plain)
    parity = export(model, out, "int8", sounds=Sounds(ids, waves, labels), force=True)
    assert parity.clips == 6  # a third is what it was measured on
    assert parity.largest < 0.2
    assert {"QuantizeLinear", "DequantizeLinear"} <= {each.op_type for each in onnx.load(out).graph.node}
    assert parity.mean_average_precision is not None


def test_int8_that_loses_too_much_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: more than the stated loss of mean average precision is refused, and nothing lies there."""
    model = random_model("kaldi")
    ids = ["a", "b", "c"]
    labels = Labels.from_sets(ids, [[id] for id in CLASSES.ids], CLASSES)
    sounds = Sounds(ids, [noise(0.6, model.network.sample_rate, seed) for seed in range(3)], labels)
    monkeypatch.setattr(write, "MOST_LOSS", -2.0)
    with pytest.raises(ExportError, match="loses"):
        export(model, tmp_path / "out.onnx", "int8", sounds=sounds)
    assert not list(tmp_path.iterdir())


def test_what_is_no_exported_model_is_refused(pair: tuple[Model, Path], tmp_path: Path) -> None:
    """Law: each refusal names the file and what is wrong with it."""
    path = tmp_path / "bad.onnx"
    for data, message in ((b"", "cannot run it"), (pair[1].read_bytes()[:1000], "cannot run it")):
        path.write_bytes(data)
        with pytest.raises(ExportedError, match=message):
            load_exported(path)
    for key, value, message in (
        ("format", None, "not psla's"),
        ("version", "7", "version '7'"),
        ("sample_rate", "-3", "sample_rate must be"),
        ("class_ids", '["a"]', "not a usable"),
        ("front_end", "{", "not a usable"),
        ("step_samples", None, "lacks step_samples"),
    ):
        written = onnx.load(pair[1])
        kept = {each.key: each.value for each in written.metadata_props if each.key != key}
        onnx.helper.set_model_props(written, kept | ({} if value is None else {key: value}))
        onnx.save(written, path)
        with pytest.raises(ExportedError, match=message):
            load_exported(path)
    with pytest.raises(ExportError, match="an exported one already"):
        export(load_exported(pair[1]), tmp_path / "again.onnx")
    with pytest.raises(ExportError, match=r"ends in \.onnx"):
        export(pair[0], tmp_path / "out.bin")
    with pytest.raises(ValueError, match="precision must be"):
        export(pair[0], tmp_path / "out.onnx", "int4")
