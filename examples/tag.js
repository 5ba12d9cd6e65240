// What sounds in a WAV file (16 bit, mono, at the model's rate), with ONNX Runtime and nothing else:
//   npm install onnxruntime-node        (or onnxruntime-web, which runs in browsers, too)
//   node tag.js model.onnx street.wav
// The report that `psla export` writes beside the model has the rate and the classes. A recording that is longer than
// the model's window is cut there; psla tags it window by window.
const fs = require("fs");

function runtime() {
  for (const name of [process.env.ORT, "onnxruntime-node", "onnxruntime-web"]) {
    try { if (name) return require(name); } catch (error) { if (error.code !== "MODULE_NOT_FOUND") throw error; }
  }
  throw new Error("install onnxruntime-node or onnxruntime-web");
}

function samplesOf(path, rate) {
  const file = fs.readFileSync(path);
  for (let at = 12, rightFormat = false; at + 8 <= file.length; at += 8 + file.readUInt32LE(at + 4)) {
    const name = file.toString("latin1", at, at + 4), size = file.readUInt32LE(at + 4), body = at + 8;
    if (name === "fmt ") {
      rightFormat = file.readUInt16LE(body + 2) === 1 && file.readUInt32LE(body + 4) === rate && file.readUInt16LE(body + 14) === 16;
    } else if (name === "data" && rightFormat) {
      return Float32Array.from({ length: size >> 1 }, (_, i) => file.readInt16LE(body + 2 * i) / 32768);
    }
  }
  throw new Error(`${path}: not a WAV file of 16 bit, mono, ${rate} Hz`);
}

async function main(model, sound) {
  const ort = runtime();
  const about = JSON.parse(fs.readFileSync(model.replace(/\.onnx$/, ".parity.json")));
  const samples = samplesOf(sound, about.sample_rate);
  const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(model)));
  const said = await session.run({ waveform: new ort.Tensor("float32", samples, [1, samples.length]) });
  const found = Array.from(said.clip_probabilities.data, (probability, i) => ({ ...about.per_class[i], probability }));
  console.log(JSON.stringify(found.map(({ id, name, probability }) => ({ id, name, probability }))));
}

main(...process.argv.slice(2)).catch((error) => { console.error(error.message); process.exit(1); });
