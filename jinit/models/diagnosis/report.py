"""What a diagnosis shows: a verdict, a table, a page, and the numbers."""

import math
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from jinit.models.diagnosis import records
from jinit.models.tracing.names import table
from jinit.networks.signals import LayerSignals
from jinit.templates import render

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_COLUMNS = (
    "layer", "fans", "activation", "mean", "std", "log10 rms", "log10 grad", "dead", "saturated",
)  # fmt: skip
FEWEST = 3
"""layers that a slope needs"""
_HISTORIES = ("in_time", "forward_in_time")


@dataclass(frozen=True)
class Diagnosis:
    """Signals through a model, and what they mean.

    `print` shows a table and the verdict, in a notebook it is a page, both with powers of ten;
    `layers`, `signals` and every form of data hold natural logarithms.
    """

    layers: tuple[records.DiagnosedLayer, ...]
    """in call order, the layers of loops one by one"""
    activations: tuple[records.ActivationSignal, ...]
    parameters: tuple[records.ParameterSignal, ...]
    loss: float
    """its value, or the mean of output times random numbers"""
    log_output: float
    """of the root mean square of the output's first array"""
    residuals: int
    """branches that end in a sum, the layers of loops one by one"""
    branches: tuple[records.Branch, ...]
    attention: tuple[records.AttentionSignal, ...] = ()
    """every softmax of products of two signals, as of queries and keys"""
    uninformed: float = math.nan
    """the loss of an output of zeros; NaN without a loss"""
    unseen: tuple[str, ...] = ()
    """what could not be looked at, a clause each"""
    findings: tuple[records.Finding, ...] = ()
    """what is wrong, the worst first; empty for a healthy model"""
    remarks: tuple[str, ...] = ()
    """what is unusual and may be meant"""

    @property
    def signals(self) -> LayerSignals:
        """The record of all layers, arrays [layers]; without histograms."""
        rows = [row.signals for row in self.layers]
        found: Any = {
            name: np.array([getattr(row, name) for row in rows])
            if name in records.DiagnosedLayer._fields
            else None
            for name in LayerSignals._fields
        }
        return LayerSignals(**found)

    @property
    def weights(self) -> list[records.ParameterSignal]:
        """Parameters that are weights, in call order."""
        found = [p for p in self.parameters if p.role.kind in ("weight", "tied")]
        return sorted(found, key=lambda p: p.role.order or 0)

    @property
    def verdict(self) -> str:
        """One sentence, with a cure if one is needed, and what could not be looked at."""
        if self.findings:
            return self.findings[0].sentence
        if not self.layers:
            return "No weight is applied to a signal, so that nothing can be said of the model."
        if self.unseen:
            return f"Nothing wrong in what can be seen, but {'; '.join(self.unseen)}."
        seen = [row for row in self.layers if math.isfinite(row.log_pre + row.log_grad)]
        if not seen:
            return "No layer has both a signal and a gradient, so that nothing can be said of them."
        first, last, count = seen[0], seen[-1], len(self.layers)
        if count == 1:
            return (
                f"Nothing wrong in the one layer that is seen, {first.layer}, whose output has a "
                f"root mean square of {math.exp(first.log_pre):.2g}; one layer does not tell "
                f"whether a signal survives depth."
            )
        changes = (
            f"the signal changes x{math.exp(last.log_pre - first.log_pre):.2g}, and the gradient "
            f"on its way back x{math.exp(first.log_grad_norm - last.log_grad_norm):.2g}"
        )
        if len(seen) < FEWEST:
            return f"Nothing wrong in {count} layers, too few to tell what depth does: {changes}."
        return f"Healthy: over {count} layers {changes}."

    @property
    def is_healthy(self) -> bool:
        """Whether all was seen, over layers enough, and nothing is wrong."""
        return not self.findings and self.verdict.startswith("Healthy")

    def to_dataframe(self) -> "pd.DataFrame":
        """One row a layer, with the fields of `layers`; logarithms are natural."""
        import pandas as pd

        rows = [{**row._asdict(), "log_grad_norm": row.log_grad_norm} for row in self.layers]
        return pd.DataFrame(rows).drop(columns=list(_HISTORIES))

    def to_dataset(self) -> "xr.Dataset":
        """The numbers of every layer along "layer", with the layers' names as coordinate."""
        import xarray as xr

        frame = self.to_dataframe().select_dtypes("number")
        names = [f"{i} {row.layer}" for i, row in enumerate(self.layers)]
        columns = {name: ("layer", frame[name].to_numpy()) for name in frame.columns}
        said = {"verdict": self.verdict, "logarithms": "natural"}
        return xr.Dataset(columns, {"layer": names}, said)

    def __str__(self) -> str:  # noqa: D105
        worse = [f"- {finding.sentence}" for finding in self.findings[1:]]
        more = [f"- {remark}" for remark in self.remarks]
        more += [
            f"- The attention logits of {a.after} have a std of {a.std:.2g}; their softmax has "
            f"{100 * a.entropy:.0f} % of the entropy of equal weights."
            for a in self.attention[:4]
        ]
        return "\n".join([table(_COLUMNS, self._cells()), "", self.verdict, *worse, *more])

    def _cells(self) -> list[list[str]]:
        def percent(x: float, name: str | None) -> str:
            return "" if math.isnan(x) or not (x or name) else f"{100 * x:.0f}%"

        return [
            [
                row.layer, f"{row.fan_in} -> {row.fan_out}", row.activation or "",
                f"{row.pre_mean:.3g}", f"{row.pre_std:.3g}", f"{records.decades(row.log_pre):.2f}",
                f"{records.decades(row.log_grad):.2f}", percent(row.dead, row.activation),
                percent(row.saturated, row.activation),
            ]
            for row in self.layers
        ]  # fmt: skip

    def to_html(self, path: str | File | None = None) -> str:
        """A page with the verdict and the table; written to `path` if one is given."""
        said = [finding.sentence for finding in self.findings] or [self.verdict]
        said += self.remarks
        html = render(
            "model.html.j2",
            title="Does the signal survive?",
            sentences=said,
            columns=_COLUMNS,
            rows=self._cells(),
        )
        if path is not None:
            File(path).write_text(html, encoding="utf-8")
        return html

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_json(self) -> dict[str, Any]:
        """Verdict, findings and layers, as JSON can hold them; logarithms are natural."""

        def plain(x: Any) -> Any:
            return str(x) if isinstance(x, float) and not math.isfinite(x) else x

        layers = [
            {k: plain(v) for k, v in row._asdict().items() if k not in _HISTORIES}
            for row in self.layers
        ]
        findings = [finding._asdict() for finding in self.findings]
        said = {"verdict": self.verdict, "logarithms": "natural"}
        attention = [each._asdict() for each in self.attention]
        more = {"remarks": list(self.remarks), "healthy": self.is_healthy}
        return {**said, **more, "findings": findings, "attention": attention, "layers": layers}
