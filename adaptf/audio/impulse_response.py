"""Device impulse responses:
a clip sounds as if another microphone had recorded it (Morocutti et al., 2023)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from adaptf.audio.on_device import moved
from adaptf.audio.simulated_microphones import simulate_responses

_SIMULATED_RESPONSES = 64
_SIMULATED_SEED = 20250
"""Another seed than the demo data's devices: augmentation must not know the devices that it is tested on."""

_CLIPS_AT_ONCE = 64
"""The spectra of more would leave the processor's cache: 256 at once take a tenth longer."""


class ResponseBank:
    """Impulse responses (responses, taps) whose spectra are computed once per clip length and device.

    `delays` (responses,): the samples by which each response is late, which convolving takes back; None:
    none is.
    """

    def __init__(self, responses: Tensor, *, delays: Tensor | None = None) -> None:
        if responses.ndim != 2 or not len(responses):
            raise ValueError(
                f"responses should be (responses, taps) with at least one, got {tuple(responses.shape)}"
            )
        self.responses = responses
        self.delays = torch.zeros(len(responses), dtype=torch.int64) if delays is None else delays
        self._spectra: dict[tuple[int, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self.responses)

    def convolve(self, waveform: Tensor, choice: Tensor) -> Tensor:
        """Each clip (batch, samples) with its response `choice` (batch,): so many samples of the full
        convolution, from the response's delay on."""
        samples = waveform.shape[1]
        length = next_fast_len(samples + self.responses.shape[1] - 1, real=True)
        spectra, convolved = self._spectra_on(length, waveform.device), torch.empty_like(waveform)
        places = moved(choice, waveform.device).split(_CLIPS_AT_ONCE)
        for into, clips, chosen in zip(
            convolved.split(_CLIPS_AT_ONCE), waveform.split(_CLIPS_AT_ONCE), places, strict=True
        ):
            product = torch.fft.rfft(clips, n=length).mul_(spectra[chosen])
            into.copy_(torch.fft.irfft(product, n=length)[:, :samples])
        return convolved

    def _spectra_on(self, length: int, device: torch.device) -> Tensor:
        key = (length, device)
        if key not in self._spectra:
            self._spectra[key] = torch.fft.rfft(self._advanced(length).to(device))
        return self._spectra[key]

    def _advanced(self, length: int) -> Tensor:
        """(responses, length) with each delay at sample 0;
        what comes before it goes to the end, as a period's past does."""
        padded = pad(self.responses, (0, length - self.responses.shape[1]))
        return padded.gather(1, (torch.arange(length) + self.delays[:, None]) % length)


@dataclass(frozen=True)
class _ResponseDraw:
    """The clips that may be convolved, and with which response each."""

    clips: Tensor  # [k] rows of the batch
    choice: Tensor  # [k] rows of the bank
    number: Tensor  # [k] from 0 on: the clip is convolved where its probability is greater


class DeviceImpulseResponse:
    """With a probability of at most `p` per clip, one response of the bank drawn evenly."""

    def __init__(self, bank: ResponseBank, *, p: float, generator: np.random.Generator) -> None:
        self.bank, self.p, self.generator = bank, p, generator

    def draw(self, batch: int) -> _ResponseDraw:
        """The draw knows nothing of a clip's own probability,
        so that it is the same whatever devices a batch holds."""
        numbers = self.generator.random(batch)
        clips = np.flatnonzero(numbers < self.p)
        choice = self.generator.integers(len(self.bank), size=len(clips))
        return _ResponseDraw(
            torch.from_numpy(clips), torch.from_numpy(choice), torch.from_numpy(numbers[clips])
        )

    def __call__(self, waveform: Tensor, p: Tensor) -> Tensor:
        """(batch, samples) and each clip's probability (batch,), on the CPU -> the same shape."""
        draw = self.draw(len(waveform))
        kept = draw.number < p[draw.clips]
        clips, choice = moved(draw.clips[kept], waveform.device), draw.choice[kept]
        if not len(clips):
            return waveform
        return waveform.index_copy(0, clips, self.bank.convolve(waveform[clips], choice))


def simulated_bank(*, sample_rate: int) -> ResponseBank:
    """The bank for users without a folder of measured responses: simulated microphones."""
    responses = simulate_responses(_SIMULATED_RESPONSES, sample_rate=sample_rate, seed=_SIMULATED_SEED)
    return ResponseBank(torch.from_numpy(responses))
