"""What sounds in a WAV file (16 bit, mono, at the model's rate), with ONNX Runtime and numpy and nothing else.

    python tag.py model.onnx street.wav

A recording that is longer than the model's window is cut there; psla tags it window by window.
"""

import json
import sys
import wave

import numpy as np
import onnxruntime


def main(model: str, sound: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    rate = int(about["sample_rate"])
    with wave.open(sound) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, rate):
            sys.exit(f"{sound}: not a WAV file of 16 bit, mono, {rate} Hz")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    said = session.run(["clip_probabilities"], {"waveform": samples[None]})[0][0]
    ids, names = json.loads(about["class_ids"]), json.loads(about["class_names"])
    found = [{"id": id, "name": names[row], "probability": float(said[row])} for row, id in enumerate(ids)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
