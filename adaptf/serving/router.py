"""The registered model: one network per recording device behind one `predict`.

A model for one device is the same router with a single entry, `unknown`, that answers for every device.
What this file imports of adaptf is the code that a version carries.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from mlflow.pyfunc.model import PythonModel
from prometheus_client.registry import Collector

from adaptf.errors import UserError
from adaptf.serving.bundle import BUNDLE, Bundle, read_bundle, warn_of_slower_forms
from adaptf.serving.classify import Answer, Heard, classify
from adaptf.serving.limits import in_parts, one_request
from adaptf.serving.live import Follower
from adaptf.serving.log_lines import log, show_log_when_served
from adaptf.serving.monitoring import Monitor
from adaptf.serving.places import read_places
from adaptf.serving.requests import AUDIO, DEVICE, BadRow, Columns, Row, columns_of, read_rows, refuse
from adaptf.serving.response import read_parameters, response_rows, response_table
from adaptf.serving.settings import Settings, read_settings
from adaptf.serving.signature import example_request
from adaptf.serving.streams import Stream, Streams

if TYPE_CHECKING:
    from adaptf.serving.shadow import Shadow

_NOT_BY_SOUND = (
    "device_from_sound: this model holds nothing that tells devices by their sound. A router does where its "
    "run of `finetune` is of a version of adaptf that learns it, and tuned three devices or more, each with "
    "validation clips: run finetune, quantize, register and promote again, or leave device_from_sound=false"
)


_Row = TypeVar("_Row")


class DeviceRouter(PythonModel):
    """Rows of audio and device -> rows of scene, probabilities and the version that answered."""

    follower: Follower
    monitor: Monitor
    streams: Streams
    shadow: "Shadow | None" = None
    """What lets candidates answer beside production."""
    listeners: tuple[Heard, ...] = ()
    """Who hears what networks have answered."""

    @property
    def bundle(self) -> Bundle:
        """What answers at the moment."""
        return self.follower.bundle

    def load_context(self, context: Any) -> None:
        """Reads the bundle, and starts what the model's configuration asks for. Raises UserError."""
        settings = read_settings(context.model_config)
        show_log_when_served()
        bundle = read_bundle(Path(context.artifacts[BUNDLE]))
        self.start(Follower(bundle, check_seconds=settings.check_seconds), settings)

    def start(self, follower: Follower, settings: Settings) -> None:
        """Answers with the follower's bundle from now on.
        Raises UserError where it cannot be live, or not tell devices by their sound."""
        self.follower, self.monitor, self.streams = follower, Monitor(follower), Streams()
        if not settings.device_from_sound:
            follower.bundle = replace(follower.bundle, device_from_sound=None)
        elif follower.bundle.device_from_sound is None:
            raise UserError(_NOT_BY_SOUND)
        if settings.live:
            follower.start()
            weakref.finalize(self, follower.stop)
        log("models", versions={device: model.version for device, model in self.bundle.models.items()})
        warn_of_slower_forms(self.bundle)

    def begin_shadow(self, shadow: "Shadow", metrics: Collector) -> None:
        """From now on candidates answer a share of the clips too, of which the metrics tell."""
        self.shadow = shadow
        self.tell(shadow.heard, metrics)
        shadow.start()
        weakref.finalize(self, shadow.stop)

    def tell(self, heard: Heard, metrics: Collector) -> None:
        """From now on somebody hears what networks have answered, of which the metrics tell."""
        self.listeners = (*self.listeners, heard)
        self.monitor.metrics.register(metrics)

    def look_now(self) -> None:
        """Has the registry looked at once, without waiting for it."""
        self.follower.look_now()
        if self.shadow:
            self.shadow.look_now()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row per row of the table, with its index; with `aggregate="second"` one per clip of it, with
        `"stream"` the scene of the row's stream so far. The table may be longer than a request: it is
        worked on in parts.

        `audio` is base64 of a WAV, FLAC, OGG or MP3 file of any rate; longer audio than a clip is cut (see
        `adaptf.serving.requests.cut_clips`) and the clips' probabilities are averaged. `device` may be
        missing or null. `probabilities` holds a dictionary by scene: `pandas.json_normalize` makes columns of
        it. `adaptf.serving.response.Parameters` has what `params` may hold.

        Raises MlflowException (INVALID_PARAMETER_VALUE) that names the row or parameter at fault; with
        `on_error="row"` a bad row is a row with an error instead.
        """
        rows = self._answer(lambda: columns_of(model_input), params, Event(), in_parts)
        return response_table(rows, model_input.index)

    def answer(self, columns: Columns, params: dict[str, Any] | None, *, stop: Event) -> list[dict[str, Any]]:
        """The same of a request, whose columns and number of rows are right, for somebody who may set `stop`
        when the answer is no longer wanted. Raises GivenUp then."""
        return self._answer(lambda: columns, params, stop, one_request)

    def _answer(
        self,
        read: Callable[[], Columns],
        params: dict[str, Any] | None,
        stop: Event,
        parts_of: Callable[[Iterable[Row | BadRow]], Iterable[list[Row | BadRow]]],
    ) -> list[dict[str, Any]]:
        bundle = self.bundle  # Once: another one may be taken up before the request is answered.
        with self.monitor.request() as answers:
            parameters, columns = read_parameters(params, scenes=len(bundle.scenes)), read()
            take = _keep if parameters.keeps_bad_rows else refuse
            rows = map(take, read_rows(columns, max_seconds=bundle.max_seconds, stop=stop))
            places = read_places(columns, of_streams=parameters.of_streams)
            for part in parts_of(rows):
                answers += map(take, classify(bundle, part, stop, self.listeners))
            streams: Sequence[Stream] = ()
            if parameters.of_streams:
                good = [answer for answer in answers if isinstance(answer, Answer)]
                streams = self.streams.follow(places, good, stay_seconds=parameters.stay_seconds)
            clip_seconds = bundle.clip_samples / bundle.sample_rate
            return response_rows(
                answers, parameters, scenes=bundle.scenes, clip_seconds=clip_seconds, streams=streams
            )

    def try_out(self) -> None:
        """Answers a built-in clip by each network, past the counts. Raises what an answer may raise."""
        audio = example_request()["dataframe_records"][0][AUDIO]
        columns = {AUDIO: [audio] * len(self.bundle.models), DEVICE: list(self.bundle.models)}
        rows = list(read_rows(columns, max_seconds=self.bundle.max_seconds, stop=Event()))
        for answer in classify(self.bundle, rows, Event()):
            refuse(answer)


def _keep(row: _Row) -> _Row:
    return row
