"""A teacher learns the scenes: on clips, or its last layer on embeddings that are computed once."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adaptf.audio.logmel import LogMel
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.embeddings import cached_embeddings
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.files import sha256_of
from adaptf.models.checkpoint import load_classifier, load_network_weights, save_classifier
from adaptf.models.classifier import Classifier, ModelDescription
from adaptf.pipeline.config import AugmentConfig
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.fitting import Recipe, fitted_result, train_classifier
from adaptf.pipeline.objectives import SCENES
from adaptf.pipeline.teachers import (
    TeacherConfig,
    fresh_network,
    learning_settings,
    start,
    strategy_of,
    what_it_is,
)
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import digest
from adaptf.tracking.stage_run import StageRun
from adaptf.training.fit import Fitted

_ON_EMBEDDINGS = AugmentConfig(dir_p=0.0, mixstyle_p=0.0, mixup_alpha=0.0)
"""What can't be done to embeddings any more is off."""


def learn(config: TeacherConfig, run: StageRun, data: PreparedData) -> tuple[Result, NDArray[np.float32]]:
    """What the training leaves, and the best checkpoint's logits (learning clips, classes)."""
    note = what_it_is(config)
    print(note, flush=True)
    fitted, logits = _fit_and_predict(config, run, data)
    return fitted_result(run, fitted, note=note), logits


def _fit_and_predict(
    config: TeacherConfig, run: StageRun, data: PreparedData
) -> tuple[Fitted, NDArray[np.float32]]:
    """The checkpoints, and the best one's logits (learning clips, classes)."""
    chosen, _ = start(config)
    network, settings = fresh_network(config, classes=len(data.classes))
    heard = asdict(config.small.mel) if chosen.features is LogMel else getattr(network, "hears", {})
    description = ModelDescription(kind=chosen.name, classes=data.classes, features=heard, network=settings)
    classifier = Classifier(description, chosen.features(**heard), network)
    if chosen.embedding_code and config.frozen.cache_embeddings:
        return _on_embeddings(config, run, data, classifier)
    fitted = _train_on_clips(config, run, data, classifier)
    return fitted, _logits_of(config, run, data, load_classifier(fitted.best))


def _on_embeddings(
    config: TeacherConfig, run: StageRun, data: PreparedData, classifier: Classifier
) -> tuple[Fitted, NDArray[np.float32]]:
    """The last layer on embeddings, computed once: checkpoints of the whole teacher, and its logits."""
    clips = _embedded(config, run, data, classifier)
    split = data.learning_rows()["split"].to_numpy()
    network: Any = classifier.network
    head = Classifier(classifier.description, nn.Identity(), network.classifier)
    augment = replace(_ON_EMBEDDINGS, mixup_alpha=config.frozen.augment.mixup_alpha)
    fitted = train_classifier(
        head,
        run,
        data,
        Recipe(augment, config.frozen.optim, config.trainer, config.seed),
        SCENES,
        train=clips.part(split == TRAIN),
        validation=clips.part(split == VALIDATION),
    )
    last = _with_encoder(run, classifier, head, fitted.last)
    best = _with_encoder(run, classifier, head, fitted.best)
    logits = predict_logits(network.classifier.eval().to("cpu"), clips, name=f"{run.name}: logits")
    return replace(fitted, best=best, last=last), logits


def _with_encoder(run: StageRun, classifier: Classifier, head: Classifier, weights: Path) -> Path:
    """Loads these weights into the head, the classifier's last layer, and writes all of the classifier."""
    epoch = load_network_weights(head.network, weights)
    return save_classifier(classifier, run.folder / "with_encoder" / weights.name, epoch=epoch)


def _embedded(config: TeacherConfig, run: StageRun, data: PreparedData, classifier: Classifier) -> ClipSet:
    """All learning clips as embeddings, kept beside the waveforms for other seeds and settings."""
    chosen, file = start(config)
    code = chosen.embedding_code() if chosen.embedding_code else ()
    device = inference_device(config.trainer.accelerator)
    classifier.eval().to(device)
    network: Any = classifier.network
    rows = data.learning_rows()
    embeddings = cached_embeddings(
        lambda waveform: network.embed(classifier.features(waveform)),
        data.cached(rows),
        list(rows["key"]),
        folder=data.waveforms.folder / "embeddings",
        encoder_digest=digest(sha256_of(Path(file)), *code),
        device=device,
        name=f"{run.name}: embeddings",
    )
    classifier.to("cpu")
    return replace(data.clip_set(rows, VALIDATION), source=embeddings)


def _train_on_clips(
    config: TeacherConfig, run: StageRun, data: PreparedData, classifier: Classifier
) -> Fitted:
    """Macro-average accuracy on validation clips chooses the checkpoint."""
    settings = learning_settings(config)
    return train_classifier(
        classifier,
        run,
        data,
        Recipe(
            settings.augment,
            settings.optim,
            replace(config.trainer, strategy=strategy_of(config)),
            config.seed,
        ),
        SCENES,
        train=data.clips(TRAIN),
        validation=data.clips(VALIDATION),
    )


def _logits_of(
    config: TeacherConfig, run: StageRun, data: PreparedData, best: Classifier
) -> NDArray[np.float32]:
    """(learning clips, classes)"""
    device = inference_device(config.trainer.accelerator)
    clips = data.clip_set(data.learning_rows(), VALIDATION)
    return predict_logits(best.to(device), clips, device=device, name=f"{run.name}: logits")
