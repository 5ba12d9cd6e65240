"""How the reading of sound files, packing and downloads are interrupted; see `interruption_scenarios.py`."""

from __future__ import annotations

import hashlib
import io
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import soundfile
import torch

from audioset_tree import MUSIC, sound, write_list
from interruption_law import Setting, Tell, scenario
from psla.audio import worker
from psla.audio.pool import DecodePool, Job
from psla.audio.probe import Headers
from psla.corpora import audioset
from psla.corpora.audioset import files as audioset_files
from psla.data.clips import Clips
from psla.data.inventory import take_inventory
from psla.data.pack.reading import Pack
from psla.data.pack.verify import check
from psla.data.pack.write import pack
from psla.data.vocabulary import Vocabulary
from psla.download import download
from psla.files import sha256_of
from psla.model.backbones.contract import BACKBONES
from psla.model.backbones.efficientnet import foreign_name
from psla.model.file import ModelCard, save_model
from psla.model.frontends.contract import front_end_config
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.spread import Here
from psla.synth import corpus as soundscape_corpus
from psla.synth.scene import SoundscapeConfig
from psla.synth.scene import table as soundscape_table
from psla.synth.scene import vocabulary as soundscape_vocabulary
from psla.tagging.predicting import PredictJob
from psla.training.devices import Runtime
from psla.weights import catalogue as published
from psla.weights import imagenet
from psla.weights.catalogue import load_any
from psla.weights.imagenet import weights_file

CPU = Runtime(accelerator="cpu", workers=1)
EVERY_STEP = replace(CPU, checkpoint_minutes=0)
RATE = 16000


def fake_clips(names: list[str]) -> Clips:
    """Clips for the fake decoder, whose names say what it does with them."""
    row = {"split": "train", "labels": ["dog"]}
    rows = [{**row, "clip_id": f"{i}", "source": f"{i}", "path": name} for i, name in enumerate(names)]
    return Clips.from_rows(rows, Vocabulary(["dog"]), "mine")


FAKES = ["good:5", "refuse", "many:2", "good:9", "good:3", "many:1", "good:4"]
FAKE = "fake_decoder:decode"


@scenario("psla.data.pack.write.pack", lambda setting: fake_clips(FAKES), keeps=True)
def _pack(clips: Clips, out: Path, tell: Tell) -> Pack:
    found = pack(clips, out, RATE, workers=1, shard_clips=3, decoder=FAKE, progress=tell)
    assert found is not None
    return found


def predict_job(setting: Setting) -> tuple[Path, Clips]:
    vocabulary = soundscape_vocabulary()
    front_end = front_end_config({"frames": 40, "mel_bins": 32})
    network = TaggingNetwork(NetworkConfig("efficientnet_lite0", len(vocabulary), 1, front_end=front_end))
    save_model(setting.folder / "m.safetensors", network, vocabulary, ModelCard())
    rows = soundscape_table(SoundscapeConfig(seconds=0.3, clips=4), "evaluation")
    return setting.folder / "m.safetensors", Clips.from_rows(rows, vocabulary)


@scenario("psla.tagging.predicting.PredictJob.predict", predict_job, keeps=True)
def _predict_apart(given: tuple[Path, Clips], out: Path, tell: Tell) -> Any:
    model, clips = given
    job = PredictJob(str(model), sha256_of(model), clips, out / "p.safetensors")
    return job.predict(Here(), tell, part_clips=1)


def damaged_pack(setting: Setting) -> Pack:
    found = pack(fake_clips(FAKES), setting.folder / "pack", RATE, workers=1, shard_clips=2, decoder=FAKE)
    assert found is not None
    file = setting.folder / "pack/waveforms/00002.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    return found


@scenario("psla.data.pack.verify.check", damaged_pack)
def _check(given: Pack, out: Path, tell: Tell) -> Any:
    return check(given, progress=tell)


def fake_pool(setting: Setting) -> DecodePool:
    return setting.stack.enter_context(DecodePool(1, decoder=FAKE))


@scenario("psla.audio.pool.DecodePool.map", fake_pool)
def _map(pool: DecodePool, out: Path, tell: Tell) -> Any:
    return tell.each(pool.map(Job(name, RATE) for name in FAKES))


@scenario("psla.audio.pool.DecodePool.stream", fake_pool)
def _stream(pool: DecodePool, out: Path, tell: Tell) -> Any:
    return tell.each(pool.stream("many:5", RATE))


@scenario("psla.audio.pool.DecodePool.ask", fake_pool)
def _ask(pool: DecodePool, out: Path, tell: Tell) -> Any:
    return tell.each(pool.ask(Job(name, RATE) for name in ["tell:3", "refuse", "tell:5"]))


def long_file(setting: Setting) -> Path:
    """25 s, so that it has several blocks."""
    return sound(setting.folder / "long.wav", seconds=25.0)


@scenario("psla.audio.worker.decode", long_file)
def _decode(path: Path, out: Path, tell: Tell) -> Any:
    return tell.each(worker.decode(str(path), RATE, None, None))


@scenario("psla.audio.worker.decode_to_tag", long_file)
def _decode_to_tag(path: Path, out: Path, tell: Tell) -> Any:
    return tell.each(worker.decode_to_tag(str(path), RATE, None, None))


@scenario("psla.audio.worker.inspect", long_file)
def _inspect(path: Path, out: Path, tell: Tell) -> Any:
    asked = f'{{"paths": ["{path}", "absent.wav"], "decode": true}}'
    return tell.each(worker.inspect(asked.encode(), 1, None, None))


IDS = [f"{letter * 11}" for letter in "abcde"]


def audioset_tree(setting: Setting) -> Path:
    """Five clips in three folders: one of the wrong length, one that is no sound, one there twice, one missing."""
    lines = [f'{id}, 0.0, 0.5, "{MUSIC}"' for id in IDS]
    write_list(setting.folder / "lists", lines)
    for place in ("one/aaaaaaaaaaa.wav", "one/bbbbbbbbbbb.wav", "two/bbbbbbbbbbb.flac", "three/other.wav"):
        sound(setting.folder / "audio" / place)
    sound(setting.folder / "audio/two/ccccccccccc.wav", seconds=0.1, rate=44100)
    (setting.folder / "audio/two/ddddddddddd.wav").write_text("words")
    return setting.folder


@scenario("psla.corpora.audioset.files.find_files", audioset_tree)
def _find_files(folder: Path, out: Path, tell: Tell) -> Any:
    return audioset_files.find_files([folder / "audio"], set(IDS), tell)


@scenario("psla.corpora.audioset.files.choose_files", audioset_tree)
def _choose_files(folder: Path, out: Path, tell: Tell) -> Any:
    files = audioset_files.find_files([folder / "audio"], set(IDS)).files
    segments = audioset.read_lists(folder / "lists", ["balanced"]).frame
    segments = segments.select("clip_id", "segment_start_s", "segment_end_s")
    return audioset_files.choose_files(files, segments, Headers(out / "headers", 1), decode=True, report=tell)


@scenario("psla.corpora.audioset.corpus.scan", audioset_tree)
def _scan(folder: Path, out: Path, tell: Tell) -> Any:
    kept = out / "headers"
    return audioset.scan(folder / "lists", [folder / "audio"], ["balanced"], headers=kept, report=tell)


def sound_files(setting: Setting) -> Clips:
    files = [setting.folder / f"{i}.wav" for i in range(4)]
    for index, path in enumerate(files[:3]):
        sound(path, seconds=0.1 + 0.1 * index)
    files[1].write_text("words")
    return fake_clips([str(path) for path in files])


@scenario("psla.data.inventory.take_inventory", sound_files, keeps=True)
def _take_inventory(clips: Clips, out: Path, tell: Tell) -> Any:
    return take_inventory(clips, decode=True, headers=Headers(out / "headers", 1), report=tell)


@scenario("psla.audio.probe.Headers.probe", sound_files, keeps=True)
def _probe(clips: Clips, out: Path, tell: Tell) -> Any:
    status = [Path(path).stat() for path in clips.frame["path"][:3]]
    files = pl.DataFrame(
        {
            "path": clips.frame["path"][:3],
            "size": [each.st_size for each in status],
            "mtime_ns": [each.st_mtime_ns for each in status],
        }
    )
    return Headers(out / "headers", 1).probe(files, decode=True, report=tell)


def tapes(setting: Setting) -> Clips:
    """A tone in silence for each of two classes and splits."""
    rows = []
    for number in range(4):
        path = setting.folder / f"{number}.wav"
        tone = 0.3 * np.sin(np.arange(4000) * (0.1 + 0.05 * number))
        soundfile.write(path, np.concatenate([np.zeros(2000), tone, np.zeros(2000)]), RATE)
        row = {"clip_id": f"{number}", "source": f"{number}", "path": str(path)}
        rows.append({**row, "split": ("train", "evaluation")[number % 2], "labels": [("dog", "rain")[number // 2]]})
    return Clips.from_rows(rows, Vocabulary(["dog", "rain"]), "tapes")


@scenario("psla.synth.corpus.cut_events", tapes)
def _cut_events(clips: Clips, out: Path, tell: Tell) -> Any:
    return soundscape_corpus.cut_events(clips, ("train", "evaluation"), tell)


@scenario("psla.synth.corpus.make_recorded", tapes)
def _make_recorded(clips: Clips, out: Path, tell: Tell) -> Any:
    config = SoundscapeConfig(clips=3, seconds=0.3)
    return soundscape_corpus.make_recorded(config, 2, clips, out / "mix.parquet", report=tell)


# Downloads


class Handler(BaseHTTPRequestHandler):
    """Serves a server's `content` with ranges, a strong entity tag and If-Range."""

    def do_GET(self) -> None:
        content = self.server.content  # type: ignore[attr-defined]
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        try:
            self.wfile.write(content[begin:])
        except ConnectionError:  # the other side was interrupted
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def served(setting: Setting, content: bytes) -> str:
    """The address of a server of this content, which ends with the test."""
    setting.patch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.content = True, content  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    setting.stack.callback(thread.join)
    setting.stack.callback(server.server_close)
    setting.stack.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_address[1]}/file.pth"


LARGE = np.random.default_rng(0).bytes(350_000)


def large_file(setting: Setting) -> str:
    """The address of a file of several pieces."""
    setting.patch.setattr("psla.download._CHUNK", 1 << 16)
    return served(setting, LARGE)


@scenario("psla.download.download", large_file, keeps=True)
def _download(url: str, out: Path, tell: Tell) -> Path:
    return download(url, out / "a.bin", progress=tell)


@scenario("psla.corpora.audioset.lists.download_lists", lambda setting: (setting, large_file(setting)))
def _download_lists(given: tuple[Setting, str], out: Path, tell: Tell) -> Any:
    given[0].patch.setattr(audioset.lists, "download", partial(download, progress=tell))
    audioset.download_lists(out, {"a.csv": given[1], "b.csv": given[1] + "?b"})  # returns what this very call fetched


@scenario("psla.weights.imagenet.weights_file", lambda setting: (setting, large_file(setting)))
def _weights_file(given: tuple[Setting, str], out: Path, tell: Tell) -> Any:
    setting, url = given
    sha256 = hashlib.sha256(LARGE).hexdigest()[:8]
    kind = BACKBONES["efficientnet_b0"]
    weights = replace(kind.imagenet, url=url, sha256_prefix=sha256)
    setting.patch.setitem(BACKBONES._found, "efficientnet_b0", replace(kind, imagenet=weights))
    setting.patch.setattr(imagenet, "download", partial(download, progress=tell))
    setting.patch.setenv("PSLA_CACHE", str(out))
    return weights_file("efficientnet_b0")


NAME = "fsd50k-b2"


def published_model(setting: Setting) -> None:
    """A small checkpoint in the published format, at an address of the catalogue; an empty cache."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = TaggingNetwork(NetworkConfig("efficientnet_b0", 200, heads=0))
    tensors = {f"module.effnet.{foreign_name(n)}": t for n, t in made.backbone.state_dict().items()}
    layer = made.pooling.classification
    tensors["module.attention.cla.weight"] = layer.weight[:, :, None, None].detach().clone()
    tensors["module.attention.cla.bias"] = layer.bias.detach().clone()
    setting.patch.setattr("psla.download._CHUNK", 1 << 16)
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    url = served(setting, buffer.getvalue())
    setting.patch.setenv("PSLA_CACHE", str(setting.out))
    setting.patch.setitem(published.CATALOGUE, NAME, replace(published.CATALOGUE[NAME], url=url))


@scenario("psla.weights.catalogue.fetch", published_model)
def _fetch(given: None, out: Path, tell: Tell) -> Any:
    return published.fetch(published.CATALOGUE[NAME], tell)


@scenario("psla.weights.catalogue.resolve", published_model)
def _resolve(given: None, out: Path, tell: Tell) -> Any:
    return published.resolve(NAME, tell)


@scenario("psla.weights.catalogue.load_any", published_model)
def _load_any(given: None, out: Path, tell: Tell) -> Any:
    return load_any(NAME, tell)
