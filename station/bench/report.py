"""What was measured, as lines for people, ratios first, and as the JSON of COMMANDS.md: plain data either way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shown:
    """One figure, and what was wanted of it.

    Attributes:
        what: in words, what is compared with what.
        unit: behind the value; "x" for a ratio.
        at_most, at_least: what was wanted; None where nothing was.
    """

    what: str
    value: float
    unit: str = "x"
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether it is what was wanted; None where nothing was."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (self.at_least is None or self.value >= self.at_least)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "what": self.what,
            "value": round(self.value, 4),
            "unit": self.unit,
            "at_most": self.at_most,
            "at_least": self.at_least,
            "reached": self.reached,
        }


def shown_lines(shown: Iterable[Mapping[str, Any]]) -> list[str]:
    """Aligned lines: value, unit, what it is, what was wanted, and whether it was reached. Takes what `Shown.document` gives."""
    lines = []
    for one in shown:
        limits = [(words, one[key]) for words, key in (("at most", "at_most"), ("at least", "at_least")) if one[key] is not None]
        wanted = " and ".join(f"{words} {limit:g}" for words, limit in limits)
        outcome = "" if one["reached"] is None else f"wanted {wanted}: {'reached' if one['reached'] else 'MISSED'}"
        lines.append(f"  {one['value']:9.3f} {one['unit']:<10} {one['what']:<62} {outcome}".rstrip())
    return lines


def rounded(values: Mapping[str, float], digits: int = 3) -> dict[str, float]:
    """The same, with so many digits behind the point."""
    return {name: round(value, digits) for name, value in values.items()}


def network_lines(document: Mapping[str, Any]) -> str:
    """`station.bench.network` for people."""
    network, floor = document["network"], document["floor"]
    lines = [
        f"{document['engine']} on {document['device']}, {document['threads']} threads: {network['words']}",
        f"ratios, medians of {document['rounds']} rounds in turn:",
        *shown_lines(document["shown"]),
        "milliseconds a frame:",
    ]
    for name, camera in document["cameras"].items():
        frame = camera["frame_ms"]
        lines.append(
            f"  {document['engine']:<28} p50 {frame['p50']:9.2f}  p99 {frame['p99']:9.2f}  p99.9 {frame['p999']:9.2f}  "
            f"{camera['frames_per_s']:7.2f} frames/s  of {camera['frames']} at {name}"
        )
    lines += [f"  {name:<28} p50 {peer['p50']:9.2f}" for name, peer in document["peers"].items()]
    lines += [f"  {name:<28} {why}" for name, why in document["missing"].items()]
    if floor["macs_per_s"]:
        lines.append(
            f"floor {document['floor_ms']:.2f} ms: {floor['gmacs']:.1f} GMAC at {floor['macs_per_s'] / 1e9:.1f} GMAC/s, the best of "
            f"{len(floor['measured'])} products and convolutions here"
        )
    else:
        lines.append(
            f"no floor: {floor['gmacs']:.1f} GMAC a frame, and torch has no {document['precision']} arithmetic to measure a peak with"
        )
    lines.append("parity, one picture, class probabilities and heat map against:")
    lines += [
        f"  {name:<28} within {near['probability']:.1e}, correlated {near['heat_map']:.6f}" for name, near in document["parity"].items()
    ]
    if not network["trained"]:
        lines.append("  the network is untrained: its heat map is a difference of nearly equal numbers, and only fp32 can agree on it")
    return "\n".join(lines)


def line_lines(document: Mapping[str, Any]) -> str:
    """The station's line for people."""
    lines = [f"the line of this station with recipe {document['recipe']}, {document['engine']}:", *shown_lines(document["shown"])]
    for name, sensor in document["sensors"].items():
        lines.append(f"milliseconds of a part at {name}, medians of {sensor['parts']} parts (*: everything but the trunks):")
        marks = {stage: "*" if stage in sensor["not_trunk"] else " " for stage in sensor["stages_ms"]}
        lines += [f"  {milliseconds:9.3f} {marks[stage]} {stage}" for stage, milliseconds in sensor["stages_ms"].items()]
    return "\n".join(lines)
