"""Fresh weights of the networks that are trained from scratch."""

from torch import nn


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions for the ReLU that follows them (He et al., 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
