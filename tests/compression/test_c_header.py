"""A C compiler takes the headers, and what they hold is enough to compute the log-mel."""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from adaptf.audio.logmel import LogMel
from adaptf.compression.c_header import front_end_header, network_header
from adaptf.compression.int8 import load_int8, read_program
from adaptf.compression.onnx_form import onnx_network

pytestmark = pytest.mark.arithmetic

BOARD = r"""
#include <math.h>
#include <stdio.h>
#include "front_end.h"
#include "network.h"

static double emphasized(int n) {
    int last = ADAPTF_CLIP_SAMPLES - 2;
    n = n < 0 ? -n : n > last ? 2 * last - n : n;
    return adaptf_clip[n + 1] - ADAPTF_PREEMPHASIS * adaptf_clip[n];
}

static double power(int frame, int bin) {
    double real = 0, imaginary = 0;
    for (int n = 0; n < ADAPTF_WINDOW_SAMPLES; n++) {
        double x = adaptf_window[n] * emphasized(frame * ADAPTF_HOP_SAMPLES - ADAPTF_WINDOW_SAMPLES / 2 + n);
        double angle = 2 * acos(-1) * bin * n / ADAPTF_N_FFT;
        real += x * cos(angle);
        imaginary -= x * sin(angle);
    }
    return real * real + imaginary * imaginary;
}

int main(void) {
    double largest = 0;
    for (int frame = 0; frame < ADAPTF_FRAMES; frame++)
        for (int band = 0, weight = 0; band < ADAPTF_BANDS; band++) {
            double mel = 0;
            for (int bin = 0; bin < adaptf_mel_bins[band]; bin++)
                mel += adaptf_mel_weights[weight++] * power(frame, adaptf_mel_first_bin[band] + bin);
            double value = (log(mel + ADAPTF_LOG_OFFSET) + ADAPTF_LOG_SHIFT) / ADAPTF_LOG_SCALE;
            largest = fmax(largest, fabs(value - adaptf_clip_log_mel[band * ADAPTF_FRAMES + frame]));
        }
    printf("%g %d %d %.9g\n", largest, ADAPTF_CONVOLUTIONS, (int)sizeof adaptf_weight_scales / 4,
           adaptf_clip_logits[ADAPTF_SCENES - 1]);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_board_computes_the_clips_log_mel_from_the_header_alone(
    network_files: dict[str, Path], scenes: list[str], tmp_path: Path
):
    log_mel = LogMel(bands=8, n_fft=256, window_samples=192, hop_samples=100)
    clip = 0.1 * torch.sin(torch.arange(1000) ** 1.3 / math.pi)
    (tmp_path / "front_end.h").write_text(front_end_header(log_mel, clip, log_mel(clip[None])[0, 0]))
    model = onnx_network(read_program(network_files["b"]))
    logits = load_int8(network_files["b"])(torch.zeros(1, 1, 64, 64))[0].detach()
    (tmp_path / "network.h").write_text(network_header(model, scenes, logits))
    (tmp_path / "board.c").write_text(BOARD)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable"]
    subprocess.run(["cc", *strict, "board.c", "-o", "board", "-lm"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "board"], capture_output=True, text=True, check=True).stdout.split()
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    channels = {one.name: one.dims[0] for one in model.graph.initializer if len(one.dims) == 4}
    assert float(said[0]) < 1e-4
    assert (int(said[1]), int(said[2])) == (len(convolutions), sum(channels.values()))
    assert float(said[3]) == pytest.approx(float(logits[-1]), rel=1e-6)
