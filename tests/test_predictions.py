"""Laws of predictions: what goes into a file comes out, ids decide, contradictions are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions, PredictionsError, average

VOCABULARY = Vocabulary(["dog", "rain", "zug"], ["Dog", "Rain", "Zug, fährt"])


def random_predictions(seed: int, clips: int = 6, dtype: type = np.float32, **facts: str) -> Predictions:
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(-0.05, 1.05, (clips, len(VOCABULARY))).astype(dtype)
    return Predictions(probabilities, [f"clip-ü{i}" for i in range(clips)], VOCABULARY, **facts)


def rewrite(path: Path, drop: str = "", **changes: object) -> None:
    """Write the file again with other header fields or without a tensor."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["psla"]) | changes
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != drop}  # noqa: SIM118
    save_file(tensors, path, metadata={"psla": json.dumps(header, sort_keys=True)})


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("clips", [0, 1, 6])
def test_a_file_gives_back_every_bit(tmp_path, dtype, clips, mapped):
    """Saving and reading, in memory or mapped, changes neither bits, ids, vocabulary nor provenance."""
    saved = random_predictions(1, clips, dtype, split="evaluation", model_hash="abc")
    saved.save(tmp_path / "p.safetensors")
    read = Predictions.read(tmp_path / "p.safetensors", mapped=mapped)
    assert read.probabilities.dtype == dtype
    assert read.probabilities.tobytes() == saved.probabilities.tobytes()
    assert (read.clip_ids, read.split, read.model_hash) == (saved.clip_ids, "evaluation", "abc")
    assert read.vocabulary.to_dict() == VOCABULARY.to_dict()
    assert read.hash_of_ids == saved.hash_of_ids


def test_equal_predictions_give_equal_files(tmp_path):
    """The bytes of a file depend on nothing but its content, whatever the memory layout."""
    saved = random_predictions(1)
    saved.save(tmp_path / "a")
    Predictions(np.asfortranarray(saved.probabilities), saved.clip_ids, VOCABULARY).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("mapped", [False, True])
def test_every_flipped_byte_is_refused(tmp_path, mapped):
    """A file with any one byte changed is refused, never read as other predictions, mapped or not."""
    path = tmp_path / "p"
    random_predictions(1, clips=2).save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        with pytest.raises(PredictionsError):
            Predictions.read(path, mapped=mapped)


def test_mapped_predictions_are_a_view_of_the_file(tmp_path):
    """Mapped probabilities stay on the disk, cannot be written to, and select and average as others do."""
    path = tmp_path / "p"
    saved = random_predictions(1)
    saved.save(path)
    mapped = Predictions.read(path, mapped=True)
    assert not mapped.probabilities.flags.owndata
    assert not mapped.probabilities.flags.writeable
    ids = saved.clip_ids[::-2]
    assert mapped.select(ids).probabilities.tobytes() == saved.select(ids).probabilities.tobytes()
    assert average([mapped, saved]).probabilities.tobytes() == saved.probabilities.tobytes()


@pytest.mark.parametrize("mapped", [False, True])
def test_without_verification_content_is_taken_as_it_is(tmp_path, mapped):
    """Only a reader that asks for no verification gets a file whose checksum is wrong."""
    path = tmp_path / "p"
    saved = random_predictions(1)
    saved.save(path)
    rewrite(path, crc32=0)
    read = Predictions.read(path, mapped=mapped, verify=False)
    assert read.probabilities.tobytes() == saved.probabilities.tobytes()
    with pytest.raises(PredictionsError, match="checksum"):
        Predictions.read(path, mapped=mapped)


def test_the_file_is_what_the_safetensors_library_reads(tmp_path):
    """The library reads the same tensors from a saved file, and its data begins at a multiple of 8 bytes."""
    saved = random_predictions(1, dtype=np.float16)
    saved.save(tmp_path / "p")
    with safe_open(tmp_path / "p", framework="numpy") as file:
        assert file.get_tensor("probabilities").tobytes() == saved.probabilities.tobytes()
        assert file.get_tensor("clip_ids").tobytes().decode().split("\n") == saved.clip_ids
    assert int.from_bytes((tmp_path / "p").read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize("length", [0, 4, 200, -1])
def test_a_truncated_file_is_refused(tmp_path, length):
    """A file cut short is refused in one sentence that names it."""
    path = tmp_path / "short"
    random_predictions(1).save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(PredictionsError, match="short"):
        Predictions.read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "labels"}, "does not hold predictions"),
        ({"split": "other"}, "checksum"),
        ({"crc32": 0}, "checksum"),
        ({"drop": "clip_ids"}, "exactly the tensors"),
        ({"drop": "probabilities"}, "exactly the tensors"),
    ],
)
def test_a_tampered_file_is_refused(tmp_path, changes, message):
    """Another version, a changed header or a missing tensor is refused with its reason."""
    path = tmp_path / "p"
    random_predictions(1).save(path)
    rewrite(path, **changes)
    with pytest.raises(PredictionsError, match=message):
        Predictions.read(path)


def test_foreign_and_missing_files_are_refused(tmp_path):
    """A safetensors file of something else is refused; a missing file stays FileNotFoundError."""
    save_file({"weight": np.zeros(3, dtype=np.float32)}, tmp_path / "foreign")
    with pytest.raises(PredictionsError, match="without the metadata"):
        Predictions.read(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError):
        Predictions.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("probabilities", "ids", "message"),
    [
        (np.zeros((2, 3)), ["a", "b"], "float64"),
        ([[0.0] * 3] * 2, ["a", "b"], "list"),
        (np.zeros((2, 2), np.float32), ["a", "b"], r"\(2, 3\); got \(2, 2\)"),
        (np.zeros((2, 3), np.float32), ["a"], r"\(1, 3\); got \(2, 3\)"),
        (np.zeros((2, 3), np.float32), ["a", "a"], "'a'"),
        (np.zeros((2, 3), np.float32), ["a", ""], "not empty"),
        (np.zeros((2, 3), np.float32), ["a", "b\nc"], "line breaks"),
        (np.zeros((2, 3), np.float32), ["a", "\udc80"], "Unicode"),
        (np.array([[0, 1, 0], [0, np.nan, 0]], np.float32), ["a", "b"], "1 of 2 clips have NaN or infinity.*'b'"),
        (np.array([[0, np.inf, 0], [0, 1, 0]], np.float16), ["a", "b"], "the first: 'a'"),
    ],
)
def test_contradictions_are_refused_at_the_door(probabilities, ids, message):
    """Wrong shape, dtype, ids or a number that is not finite is refused, the clip named."""
    with pytest.raises(PredictionsError, match=message):
        Predictions(probabilities, ids, VOCABULARY)


def test_select_takes_rows_by_id():
    """Selected rows follow their ids in the asked order, and unknown clips are counted and named."""
    whole = random_predictions(1, split="validation", model_hash="m")
    ids = [whole.clip_ids[4], whole.clip_ids[1]]
    part = whole.select(ids)
    assert part.probabilities.tobytes() == whole.probabilities[[4, 1]].tobytes()
    assert (part.clip_ids, part.split, part.model_hash, len(part)) == (ids, "validation", "m", 2)
    with pytest.raises(KeyError, match=r"1 of 2 clips .* 'x'"):
        whole.select([ids[0], "x"])


def test_the_hash_of_ids_is_of_the_set():
    """The hash of the ids ignores their order and sees a missing clip."""
    whole = random_predictions(1)
    assert whole.select(whole.clip_ids[::-1]).hash_of_ids == whole.hash_of_ids
    assert whole.select(whole.clip_ids[1:]).hash_of_ids != whole.hash_of_ids


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_average_is_the_float64_mean_joined_by_id(dtype):
    """The average equals the float64 mean rounded to float32, also when each file has its own order of clips."""
    rng = np.random.default_rng(0)
    files = [random_predictions(seed, 20, dtype) for seed in range(5)]
    mean = np.mean([each.probabilities.astype(np.float64) for each in files], axis=0)
    mixed = [files[0], *(each.select(list(rng.permutation(each.clip_ids))) for each in files[1:])]
    result = average(each for each in mixed)
    assert result.clip_ids == files[0].clip_ids
    assert result.probabilities.dtype == np.float32
    np.testing.assert_array_max_ulp(result.probabilities, mean.astype(np.float32), maxulp=1)
    for _ in range(5):
        order = rng.permutation(len(mixed))
        other = average(mixed[i] for i in order).select(result.clip_ids)
        np.testing.assert_array_max_ulp(other.probabilities, result.probabilities, maxulp=1)


def test_average_of_one_is_itself_and_leaves_it_alone():
    """The average of one file is that file, and averaging changes no input."""
    one, two = random_predictions(1, model_hash="a"), random_predictions(2, model_hash="b")
    before = one.probabilities.tobytes()
    assert average([one]).probabilities.tobytes() == before
    assert average([one]).model_hash == "a"
    assert average([one, two]).model_hash == average([two, one]).model_hash not in ("", "a", "b")
    assert one.probabilities.tobytes() == before


def test_average_refuses_what_does_not_belong_together():
    """No files, other clips or another vocabulary are refused with counts."""
    one = random_predictions(1)
    with pytest.raises(PredictionsError, match="got none"):
        average([])
    with pytest.raises(PredictionsError, match="5 in common, 1 only in 1, 0 only in 2"):
        average([one, one.select(one.clip_ids[:5])])
    swapped = Predictions(one.probabilities, one.clip_ids, Vocabulary(["rain", "dog", "zug"]))
    with pytest.raises(PredictionsError, match="3 and 3 classes, 3 in common, in another order"):
        average([one, swapped])
