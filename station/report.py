"""The same facts in two shapes: plain data for scripts (COMMANDS.md's keys) and lines for people."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import ceil
from typing import TYPE_CHECKING, Any

from station.inspection import Defect, Result

if TYPE_CHECKING:  # `station status` needs no torch
    from station.inspector import Inspector


def percentiles(times_ms: Iterable[float]) -> dict[str, float]:
    """Nearest-rank median, 99th percentile and maximum, all of them values that occurred; empty without any."""
    ordered = sorted(times_ms)
    shares = (("p50", 0.5), ("p99", 0.99), ("max", 1.0)) if ordered else ()
    return {name: round(ordered[ceil(share * len(ordered)) - 1], 3) for name, share in shares}


def defects(found: tuple[Defect, ...]) -> list[dict[str, Any]]:
    """Defects as plain data; boxes are [x, y, width, height] in camera pixels."""
    return [{"class": d.class_name, "box": list(d.box), "area_px": d.area_px, "peak": d.peak} for d in found]


def inspected(image: str, result: Result, elapsed_ms: float) -> dict[str, Any]:
    """What `station inspect --json` says of one picture."""
    seen = result.inspection
    return {
        "image": image,
        "class": seen.class_name if seen else None,
        "probability": seen.probability if seen else 0.0,
        "verdict": result.verdict.value,
        "reason": result.reason.name.lower(),
        "scores": seen.scores if seen else {},
        "defects": defects(seen.defects) if seen else [],
        "ms": round(elapsed_ms, 1),
    }


def checked(inspector: "Inspector") -> dict[str, Any]:
    """What `station recipe check --json` says of a recipe that is fit to run."""
    return {
        "recipe": inspector.recipe.name,
        "number": inspector.recipe.number,
        "hash": inspector.recipe.hash,
        "ok": True,
        "error": "",
        "precision": inspector.recipe.document.network.precision,
        "engine": inspector.engine,
        "considered": [
            {"engine": one.name, "passes": not one.refused, "refused": one.refused}
            | ({"frame_ms": one.built.frame_ms, "fp32_ms": one.built.fp32_ms} if one.built else {})
            | (asdict(one.parity) if one.parity else {})
            for one in inspector.considered
        ],
    }


def checked_line(checked: Mapping[str, Any]) -> str:
    """`station recipe check` for people: fit or not, by which engine, and what the engines came to that were compared for it."""
    if not checked["ok"]:
        return f"{checked['recipe']}: {checked['error']}"
    head = f"{checked['recipe']}: fit to run, {checked['hash'][:12]}, {checked['engine']}"
    return "\n".join([head, *(f"  {one['engine']:<18} {_considered_words(one)}" for one in checked["considered"])])


def _considered_words(one: Mapping[str, Any]) -> str:
    if "frame_ms" not in one:
        return f"REFUSED: {one['refused']}"
    return (
        f"{one['fp32_ms'] / one['frame_ms']:5.1f} times as fast as fp32, {'passes' if one['passes'] else 'REFUSED'}: "
        f"{one['verdicts']} of {one['pictures']} verdicts the same, probabilities within {one['probability']:.4f}, "
        f"heat maps correlated {one['heat_map']:.4f}"
    )


def result_line(result: Result, elapsed_ms: float) -> str:
    """One part on the terminal: verdict, class, probability, milliseconds, boxes."""
    seen = result.inspection
    head = f"{result.sequence:>6}  {result.verdict.value}  {result.reason.name.lower():<16}"
    if seen is None:
        return f"{head} {result.detail}"
    boxes = "  ".join(f"{d.box[2]}x{d.box[3]} at {d.box[0]},{d.box[1]}" for d in seen.defects[:3])
    more = f"  and {len(seen.defects) - 3} more" if len(seen.defects) > 3 else ""
    return f"{head} {seen.class_name:<18} {seen.probability:.4f}  {elapsed_ms:6.1f} ms  {boxes}{more}".rstrip()


def summary_lines(summary: Mapping[str, Any]) -> str:
    """The end of `station run --parts`."""
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in summary["reasons"].items())
    lines = [f"{summary['parts']} parts: {summary['pass']} PASS, {summary['fail']} FAIL ({reasons})"]
    if latency := summary["latency_ms"]:
        lines.append(f"trigger to verdict: median {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, at most {latency['max']:.1f} ms")
    if audit := summary.get("audit"):
        lines.append(audit_lines(audit))
    if plc := summary.get("plc"):
        lines.append(_plc_lines(plc))
    return "\n".join(lines)


def audit_lines(audit: Mapping[str, Any]) -> str:
    """What `station audit` found, in words."""
    words = "every trigger has exactly one verdict, every verdict is acknowledged or explained" if audit["ok"] else "FINDINGS"
    head = f"audit: {audit['parts']} parts, {audit['answered']} answered, {audit['acknowledged']} acknowledged: {words}"
    return "\n".join([head, *(f"  - {finding}" for finding in audit["findings"])])


def _plc_lines(plc: Mapping[str, Any]) -> str:
    lines = [
        f"the PLC counted: {plc['triggers']} triggers, {plc['answered']} answers, {plc['acknowledged']} acknowledged, "
        f"{plc['passed']} to the good bin, {plc['rejected']} rejected, {plc['timeouts']} of them timed out"
    ]
    lines += [f"  {name}: {c['passed']} passed, {c['rejected']} rejected" for name, c in sorted(plc["classes"].items())]
    lines.append(f"  against the truth: {len(plc['escapes'])} defective parts passed, {len(plc['overkill'])} good parts rejected")
    lines += [f"  escaped: {part}" for part in plc["escapes"]]
    lines += [f"  VIOLATION: {violation}" for violation in plc["violations"]]
    return "\n".join(lines)


def status_lines(status: Mapping[str, Any]) -> str:
    """`station status` for people."""
    camera, latency = status["camera"], status["latency_ms"]
    recipe = (
        f"{status['recipe']} (number {status['recipe_number']}, {status['recipe_hash'][:12]}, {status['engine']})"
        if status["recipe"]
        else "none prepared"
    )
    lines = [
        f"{status['name']}: {status['state']}, up {status['uptime_s']:.0f} s",
        f"recipe   {recipe}",
        f"camera   {camera['state']} {camera['model']} {camera['serial_number']} {camera['detail']}".rstrip(),
        f"         {camera['delivered']} frames, {camera['missed']} missed, {camera['incomplete']} incomplete, "
        f"{camera['frozen']} frozen, {camera['reconnects']} reconnects{_warmth(camera['temperature_c'])}",
        f"PLC      {'connected' if status['plc_connected'] else 'not connected'}",
        f"job {status['job']}: {status['parts']} parts, {status['pass']} PASS, {status['fail']} FAIL",
    ]
    if latency:
        lines.append(f"latency  median {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, at most {latency['max']:.1f} ms")
    if latency := status["camera_to_verdict_ms"]:
        lines.append(
            f"         from the exposure: median {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, at most {latency['max']:.1f} ms"
        )
    if health := status["health"]:
        lines.append(_health_line(health))
    return "\n".join([*lines, *(f"ALARM    {alarm}" for alarm in status["alarms"])])


def _warmth(temperature_c: float | None) -> str:
    return "" if temperature_c is None else f", {temperature_c:.1f} degrees Celsius"


def _health_line(health: Mapping[str, Any]) -> str:
    words = f"health   mean level {health['mean_level']:.0f}, {health['saturated']:.1%} white, focus {health['focus']:.3f}"
    if "change" not in health:
        return f"{words}; {health['taught']} of {health['to_teach']} good parts have taught the reference"
    x, y = ("-" if px is None else f"{px:+.1f}" for px in health["shift_px"])
    light, focus = health["change"]["bright_level"], health["change"]["focus"]
    return f"{words}; against the reference: light {light:+.0%}, focus {focus:+.0%}, shift {x}, {y} px"


def replay_lines(replay: Mapping[str, Any]) -> str:
    """`station replay` for people."""
    lines = [
        f"{replay['recording']}: {replay['parts']} parts under {replay['recipe']}: {replay['same']} same, {replay['different']} different"
    ]
    if replay["skipped"]:
        lines.append(f"  {replay['skipped']} more parts had their pictures dropped when they were recorded and were not replayed")
    lines += [f"  recipe {number} is no longer the recorded one: {change}" for number, change in replay["recipes_changed"].items()]
    lines += [f"  part {d['part']}: {d['field']} was {d['was']}, is {d['is']}" for d in replay["differences"][:50]]
    if len(replay["differences"]) > 50:
        lines.append(f"  and {len(replay['differences']) - 50} more differences; --json lists them all")
    if latency := replay["latency_ms"]:
        lines.append(f"inspection: median {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, at most {latency['max']:.1f} ms")
    return "\n".join(lines)


def train_lines(document: Mapping[str, Any]) -> str:
    """The end of `station train`."""
    lines = [
        f"{document['recipe']}: {document['images']} pictures, {document['epochs']} epochs, {document['seconds']:.0f} s, of which "
        f"{document['trunk_seconds']:.0f} s for {document['trunk_passes']} passes of the held trunk",
        f"weights {document['weights']}, sha256 {document['sha256'][:12]}",
    ]
    if chosen := document.get("cross_validation"):
        worst, best = chosen["accuracy_range"]
        lines.append(
            f"cross-validation, {chosen['folds']} folds: head {chosen['head']} for {chosen['epochs']} epochs, accuracy "
            f"{chosen['accuracy']:.4f} ({worst:.4f} to {best:.4f}); the best of all that was tried"
        )
    return "\n".join(
        [
            *lines,
            f"a running line takes it after: station recipe prepare {document['recipe']}",
            "on pictures that the judging network was not trained on:",
            evaluation_lines(document["validation"]),
        ]
    )


def evaluation_lines(document: Mapping[str, Any]) -> str:
    """`station evaluate` for people: confusion, rates with what they prove, localization, baselines."""
    width = max(6, *map(len, document["classes"]))
    said = "  ".join(f"{name:>{width}}" for name in document["classes"])
    lines = [f"{'true, said':<{width}}  {said}"]
    for name, row in zip(document["classes"], document["confusion"], strict=True):
        lines.append(f"{name:<{width}}  " + "  ".join(f"{count:>{width}}" for count in row))
    good = document["images"] - document["defective"]
    lines.append(f"accuracy {_percent(document['accuracy'])} of {document['images']}, at least {_percent(document['accuracy_low'])}")
    lines.append(f"escapes  {document['escapes']} of {document['defective']} defective, below {_percent(document['escape_upper'])}")
    lines.append(f"overkill {document['overkill']} of {good} good, below {_percent(document['overkill_upper'])} (bounds: one-sided, 95 %)")
    lines.append("  ".join(f"{name.upper()} {_percent(document[name])}" for name in ("precision", "tpr", "fpr", "fnr", "fdr", "f1")))
    if localization := document.get("localization"):
        lines.append(f"pointing game {_percent(localization['pointing_game'])} of {localization['images']} pictures with known defects")
        for method, iou in localization["methods"].items():
            sigma = f" sigma {iou['sigma']}" if "sigma" in iou else ""
            lines.append(f"  {method}{sigma}: IoU mean {_number(iou['mean_iou'])}, median {_number(iou['median_iou'])}")
    if unseen := document.get("unseen"):
        lines.append(
            f"of these the network was not trained on {unseen['images']}: accuracy {_percent(unseen['accuracy'])}, "
            f"escapes {unseen['escapes']} of {unseen['defective']}, below {_percent(unseen['escape_upper'])}, "
            f"overkill below {_percent(unseen['overkill_upper'])}"
        )
    for method in document.get("baselines", {}).get("methods", ()):
        spread = f"{_percent(method['accuracy_min'])} to {_percent(method['accuracy_max'])}"
        lines.append(f"{method['method']:<12} accuracy {_percent(method['accuracy'])} ({spread} over the folds), {method['seconds']:.0f} s")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in document["warnings"])])


def tune_lines(document: Mapping[str, Any]) -> str:
    """`station tune` for people."""
    left_out = f"left out: {document['trained_on']} with a part in the training, {document['copies']} copies"
    lines = [f"{document['recipe']}: {document['images']} pictures that the network never saw ({left_out})"]
    limit = document["minimum_probability"]
    for name, choice in (("now", limit["now"]), ("chosen", limit["chosen"])):
        if choice:
            lines.append(
                f"minimum_probability {name:<7} {choice['minimum_probability']:<7} escapes {choice['escapes']} of {choice['defective']}, "
                f"below {_percent(choice['escape_upper'])}; overkill {choice['overkill']} of {choice['good']}"
            )
    if threshold := document["localization"]:
        for name, choice in (("now", threshold["now"]), ("chosen", threshold["chosen"])):
            if choice:
                sigma = "" if choice["sigma"] is None else f" sigma {choice['sigma']}"
                lines.append(
                    f"localization {name:<7} {choice['method']}{sigma}: mean IoU {_number(choice['mean_iou'])} of {threshold['images']}"
                )
    lines += [f"refused: {reason}" for reason in document["refused"]]
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join([*lines, f"written: {', '.join(document['written'])}" if document["written"] else "nothing written (--write does)"])


def weights_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """`station weights list` for people."""
    lines = []
    for row in rows:
        used = ", ".join(row["recipes"]) or "no recipe"
        if "error" in row:
            lines.append(f"{row['name']:<28} {used}: {row['error']}")
            continue
        accuracy = "unknown" if row["accuracy"] is None else _percent(row["accuracy"])
        lines.append(
            f"{row['name']:<28} {row['sha256'][:12]}  {row['size'] / 1e6:6.1f} MB  {row['input_size']} px, width {row['width']}, "
            f"{row['trunks']} trunk(s), {row['head']}, from {row['pretrained']}; {', '.join(row['classes'])}; accuracy {accuracy}; {used}"
        )
    return "\n".join(lines)


def verified_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """`station weights verify` for people."""
    return "\n".join(
        f"{row['name']:<28} "
        + (
            f"ok, {row['golden']} golden pictures differ by at most {row['max_difference']:.5f} on {row['device']}"
            if row["ok"]
            else row["error"]
        )
        for row in rows
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
