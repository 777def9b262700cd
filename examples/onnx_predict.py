"""What does an exported model say about faces? With onnxruntime and numpy, and nothing else.

    python onnx_predict.py model.onnx faces.npy

`safe-cli export` makes model.onnx. faces.npy is uint8 [n, T, S, S, 3], RGB: n clips of T faces, 16
by default. A sample in a shard is a JPEG of T faces below one another, so with any reader of JPEGs
(here Pillow) it becomes one clip (`tar -tf` lists which clips there are):

    tar -xf data/synthetic/shards/fold1-000000.tar 00005.jpg
    python -c "
    import numpy as np; from PIL import Image
    strip = np.asarray(Image.open('00005.jpg').convert('RGB'))
    np.save('faces.npy', strip.reshape(1, -1, strip.shape[1], strip.shape[1], 3))"

Faces that were not cut out by `safe-cli shard` or `safe-cli predict` must be cut in the same way:
the file's metadata `preprocessing` tells how. The answer names what a face looks like, not what a
person feels.
"""

import argparse
import json
import os

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, or it calls home
import onnxruntime

BATCH = 32


def main() -> None:
    """Print a JSON object a clip: decision or abstain, set of possible classes, probabilities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what `safe-cli export` wrote")
    parser.add_argument("faces", help=".npy, uint8 [n, T, S, S, 3]")
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    classes, calibration = json.loads(about["classes"]), json.loads(about["calibration"])
    faces = np.load(arguments.faces)
    expected = session.get_inputs()[0].shape[1:]
    if faces.dtype != np.uint8 or list(faces.shape[1:]) != expected:
        parser.error(
            f"{arguments.faces} is {faces.dtype} {list(faces.shape)}, not uint8 with {expected} "
            "after the number of clips"
        )

    for start in range(0, len(faces), BATCH):
        batch = faces[start : start + BATCH]
        probabilities, attention = session.run(["probabilities", "attention"], {"faces": batch})
        for number, p in enumerate(probabilities, start):
            decides = p.max() >= calibration["threshold"]
            possible = [classes[k] for k in np.flatnonzero(p >= calibration["cutoffs"])]
            answer = {
                "clip": number,
                "decision": classes[p.argmax()] if decides else "abstain",
                "set": possible if calibration["level"] is not None else None,  # None: no sets made
                "probabilities": dict(zip(classes, np.round(p.astype(float), 5), strict=True)),
                "attention": np.round(attention[number - start].astype(float), 4).tolist(),
            }
            print(json.dumps(answer))


if __name__ == "__main__":
    main()
