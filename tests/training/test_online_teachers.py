import numpy as np
import torch
from torch import Tensor, nn

from adaptf.data.batch import Labels, WaveformBatch
from adaptf.training.online_teachers import online_teachers


class Loudness(nn.Module):
    """A teacher whose logits are the clip's mean, and which would change by batch normalization if it were in training."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.norm = nn.Parameter(torch.tensor(factor)), nn.BatchNorm1d(3)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.norm(self.factor * waveform.mean(dim=1, keepdim=True).expand(-1, 3))


def batch_of(waveforms: Tensor) -> WaveformBatch:
    clips = len(waveforms)
    unheard = torch.full((clips, 2, 3), -1.0)
    return WaveformBatch(waveforms, Labels(torch.zeros(clips, 3), unheard, torch.zeros(clips), np.arange(clips)))


def test_the_teachers_hear_the_waveforms_of_the_batch() -> None:
    batch = batch_of(torch.arange(4.0)[:, None].expand(4, 100))
    taught = online_teachers([Loudness(1.0), Loudness(2.0)])(batch)
    assert taught.labels.teacher_logits.shape == (4, 2, 3)
    expected = torch.arange(4.0)[:, None] * torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(taught.labels.teacher_logits[:, :, 0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(taught.waveforms, batch.waveforms)


def test_the_teachers_stay_as_they_are() -> None:
    teacher = Loudness(1.0).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    logits = online_teachers([teacher])(batch_of(torch.rand(4, 100))).labels.teacher_logits
    assert not logits.requires_grad and not teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
