"""What the organisers' two scripts do with a package, by what is known of them: run as a file, in the
package's own environment, so it imports nothing of adaptf.

It leaves complexity.json, test_accuracy.json, model_state_dict.pt and, where there are files to predict,
output.csv in the working directory; of its own, test_logits.npz: logits of the test clips by the networks of
their devices, and by the general one.
"""

import argparse
import importlib
import importlib.util
import json
import time
from copy import deepcopy
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchinfo

DEVICES = ("a", "b", "c", *(f"s{number}" for number in range(1, 11)))
"""For which complexity is asked."""
BYTES = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2, torch.int8: 1, torch.uint8: 1, torch.int32: 4}
"""Of one parameter; the organisers count no other kinds."""


def main() -> None:
    """Both scripts, one after the other."""
    options = argparse.ArgumentParser()
    for name in ("name", "index", "development", "evaluation", "evaluation_list"):
        options.add_argument(f"--{name}", default="")
    given = options.parse_args()
    if importlib.util.find_spec("adaptf"):
        raise SystemExit("adaptf is installed in this environment: it has to do without")
    api = importlib.import_module(f"{given.name}.{given.name}_{given.index}")
    with resources.as_file(resources.files(f"{given.name}.resources") / "dummy.wav") as dummy:
        Path("complexity.json").write_text(json.dumps(complexity(api, str(dummy)), indent=2))
    classes = test(api, given.name, Path(given.development))
    if given.evaluation:
        predict_evaluation(api, Path(given.evaluation_list), Path(given.evaluation), classes)
    torch.save(api.load_model().model.state_dict(), "model_state_dict.pt")


def complexity(api: ModuleType, dummy: str) -> dict[str, Any]:
    """Of the network of each device, on the input that its own loader makes of a file."""
    model = api.load_model()
    inputs = api.load_inputs([dummy] * len(DEVICES), list(DEVICES), model)
    per_device = {}
    for log_mel, device in zip(inputs, DEVICES, strict=True):
        network = api.get_model_for_device(model, device)
        profile = torchinfo.summary(deepcopy(network).float(), input_size=tuple(log_mel.shape), verbose=0)
        size = sum(parameter.numel() * BYTES[parameter.dtype] for parameter in network.parameters())
        per_device[device] = {"MACs": profile.total_mult_adds, "Params": size}
    figures = per_device.values()
    most = {f"max_{name}": max(one[name] for one in figures) for name in ("MACs", "Params")}
    return {"per_device": per_device, **most}


def test(api: ModuleType, name: str, root: Path) -> list[str]:
    """Predicts the package's list of test clips, whose scenes and devices the data set's table tells.
    Returns the classes."""
    with resources.as_file(resources.files(f"{name}.resources") / "test.csv") as listed:
        wanted = pd.read_csv(listed, sep="\t").drop(columns=["scene_label"], errors="ignore")
    meta = pd.read_csv("meta.csv", sep="\t", dtype=str, keep_default_na=False)
    clips = wanted.merge(meta, on="filename")
    if len(clips) != len(wanted):
        raise SystemExit(f"{len(wanted) - len(clips)} of {len(wanted)} test clips are not in meta.csv")
    files = [str(root / file) for file in clips["filename"]]
    by_device, classes = predicted(api, files, clips["source_label"].tolist())
    general, _ = predicted(api, files, ["unknown"] * len(files))
    right = clips["scene_label"].to_numpy() == np.array(classes)[by_device.argmax(axis=1)]
    Path("test_accuracy.json").write_text(
        json.dumps({"Test Accuracy": round(100 * right.mean(), 2)}, indent=2)
    )
    np.savez(
        "test_logits.npz", filename=clips["filename"].to_numpy(str), by_device=by_device, general=general
    )
    return classes


def predict_evaluation(api: ModuleType, listed: Path, root: Path, classes: list[str]) -> None:
    """The table that is handed in."""
    files = pd.read_csv(listed, sep="\t", dtype=str, keep_default_na=False)
    begin = time.perf_counter()
    paths, devices = [str(root / file) for file in files["filename"]], files["device_id"].tolist()
    logits, found = predicted(api, paths, devices)
    print(f"{len(files)} files in {time.perf_counter() - begin:.0f} s", flush=True)
    if found != classes:
        raise SystemExit(f"classes of the evaluation set are {found}, those of the test clips {classes}")
    likely = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    labels = [classes[place] for place in likely.argmax(axis=1)]
    table = pd.DataFrame({"filename": files["filename"], "scene_label": labels})
    pd.concat([table, pd.DataFrame(likely, columns=classes)], axis=1).to_csv(
        "output.csv", sep="\t", index=False
    )


def predicted(api: ModuleType, files: list[str], devices: list[str]) -> tuple[np.ndarray, list[str]]:
    """Logits (files, classes), by the keywords that the organisers use, and the classes."""
    use_cuda = torch.cuda.is_available()
    logits, classes = api.predict(
        file_paths=files, device_ids=devices, model_file_path=None, use_cuda=use_cuda
    )
    together = torch.stack(list(logits)).float().numpy()
    if together.shape != (len(files), len(classes)) or not np.isfinite(together).all():
        raise SystemExit(
            f"logits should be ({len(files)}, {len(classes)}) finite numbers, got {together.shape}"
        )
    return together, list(classes)


if __name__ == "__main__":
    main()
