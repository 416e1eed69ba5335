"""The same facts in two shapes: plain data for scripts (COMMANDS.md's keys) and lines for people."""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from station.inspection import Defect, Result


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
    recipe = f"{status['recipe']} (number {status['recipe_number']}, {status['recipe_hash'][:12]})" if status["recipe"] else "none prepared"
    lines = [
        f"{status['name']}: {status['state']}, up {status['uptime_s']:.0f} s",
        f"recipe   {recipe}",
        f"camera   {camera['state']} {camera['model']} {camera['serial_number']} {camera['detail']}".rstrip(),
        f"         {camera['delivered']} frames, {camera['missed']} missed, {camera['incomplete']} incomplete, "
        f"{camera['reconnects']} reconnects",
        f"PLC      {'connected' if status['plc_connected'] else 'not connected'}",
        f"job {status['job']}: {status['parts']} parts, {status['pass']} PASS, {status['fail']} FAIL",
    ]
    if latency:
        lines.append(f"latency  median {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, at most {latency['max']:.1f} ms")
    return "\n".join([*lines, *(f"ALARM    {alarm}" for alarm in status["alarms"])])


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
