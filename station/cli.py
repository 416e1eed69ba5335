"""The commands: arguments in, a report on stdout, an exit code. What a command does stands elsewhere and is imported when it is asked for.

Exit codes: 0 fine, 1 it found something, 2 wrong usage or configuration, 3 hardware or service not reachable.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drivers.camera import Feature
    from station.config import Home

FOUND, WRONG, UNREACHABLE = 1, 2, 3
# By name, so that printing help imports none of the modules they stand in.
_EXIT_CODES = {
    "CameraError": UNREACHABLE,
    "PlcError": UNREACHABLE,
    "ControlError": UNREACHABLE,
    "LedgerError": UNREACHABLE,
    "LineError": UNREACHABLE,
    "BuildError": UNREACHABLE,
    "BenchError": UNREACHABLE,
    "EngineError": UNREACHABLE,
    "DocumentError": WRONG,
    "RecipeError": WRONG,
    "StationError": WRONG,
    "RecordingError": WRONG,
    "ReplayError": WRONG,
    "WeightsError": WRONG,
    "DatasetError": WRONG,
    "TrainingError": WRONG,
    "OSError": UNREACHABLE,
}


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns its exit code. An error is one message on stderr, never a traceback."""
    arguments = _parser().parse_args(words)
    try:
        code: int = arguments.run(arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last stop before the operator
        return _complain(error)
    return code


def _complain(error: Exception) -> int:
    code = next((_EXIT_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _EXIT_CODES), None)
    if code is not None:
        print(f"station: {error}", file=sys.stderr)
        return code
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="station-error-", suffix=".txt", delete=False) as report:
        traceback.print_exception(error, file=report)
    print(
        f"station: this is a defect of the station: {type(error).__name__}: {error}; please report it with {report.name}", file=sys.stderr
    )
    return WRONG


def _home(arguments: argparse.Namespace) -> "Home":
    from station.config import Home

    return Home(Path(arguments.home or os.environ.get("STATION_HOME") or ".").resolve())


def _print(arguments: argparse.Namespace, document: Any, text: str) -> None:
    print(json.dumps(document) if arguments.json else text, flush=True)


# ---- the daemon


def _run(arguments: argparse.Namespace) -> int:
    from station import config, daemon, logs, report, site

    logs.configure()
    home = _home(arguments)
    live = (lambda _result: None) if arguments.json else (lambda result: print(report.result_line(result, result.elapsed_ms), flush=True))
    settings = config.load(home)
    if arguments.recipe:
        settings = site.with_recipe(home, settings, arguments.recipe, arguments.pictures)
    summary = daemon.run(home, settings, arguments.parts, live)
    _print(arguments, summary, "\n" + report.summary_lines(summary))
    violated = bool(summary.get("plc", {}).get("violations"))
    return FOUND if arguments.parts and (violated or not summary["audit"]["ok"]) else 0


def _ask(arguments: argparse.Namespace, words: dict[str, Any]) -> dict[str, Any]:
    from station.control import ask

    return ask(_home(arguments).socket, words)


def _status(arguments: argparse.Namespace) -> int:
    from station import report

    status = _ask(arguments, {"command": "status"})
    _print(arguments, status, report.status_lines(status))
    return 0


def _operate(arguments: argparse.Namespace) -> int:
    words = {"command": arguments.action}
    if arguments.action == "prepare":
        words["recipe"] = arguments.recipe
    reply = _ask(arguments, words)
    _print(arguments, reply, f"{arguments.action}: done; the line is in {reply['state']}" if reply["ok"] else f"refused: {reply['error']}")
    return 0 if reply["ok"] else FOUND


# ---- recipes


def _recipe_list(arguments: argparse.Namespace) -> int:
    from station import recipe

    good, bad = recipe.load_all(_home(arguments).recipes)
    rows = [{"recipe": r.name, "number": r.number, "hash": r.hash, "description": r.document.description} for r in good.values()]
    wrong = [{"recipe": name, "error": str(error)} for name, error in bad.items()]
    lines = [f"{row['number']:>6}  {row['recipe']:<16} {str(row['hash'])[:12]}  {row['description']}" for row in rows]
    _print(arguments, rows + wrong, "\n".join(lines + [f"station: {row['error']}" for row in wrong]))
    return WRONG if wrong else 0


def _recipe_check(arguments: argparse.Namespace) -> int:
    from station import config, inspector, recipe, report

    home = _home(arguments)
    device = config.load(home).device
    names = [arguments.recipe] if arguments.recipe else sorted(path.parent.name for path in home.recipes.glob("*/recipe.yaml"))
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            found.append(report.checked(inspector.prepare(recipe.find(home.recipes, name), home.weights, home.engines, device)))
        except recipe.RecipeError as error:
            found.append({"recipe": name, "ok": False, "error": str(error)})
    _print(arguments, found, "\n".join(map(report.checked_line, found)) or f"no recipe in {home.recipes}")
    return 0 if found and all(row["ok"] for row in found) else WRONG


# ---- pictures and recordings


def _inspect(arguments: argparse.Namespace) -> int:
    import logging

    from station import config, logs, replay, report

    logs.configure(logging.WARNING)
    home = _home(arguments)
    looks = replay.inspect(home, config.load(home).device, arguments.recipe, arguments.images)
    documents: list[dict[str, Any]] = []
    for image, result, elapsed_ms in looks:
        documents.append(report.inspected(image, result, elapsed_ms))
        if not arguments.json:
            print(f"{report.result_line(result, elapsed_ms)}  {image}", flush=True)
    if arguments.json:
        print(json.dumps(documents))
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    import logging

    from station import config, logs, replay, report

    logs.configure(logging.WARNING)
    home = _home(arguments)
    document = replay.replay(home, config.load(home).device, arguments.recording, arguments.recipe)
    _print(arguments, document, report.replay_lines(document))
    return FOUND if document["different"] else 0


def _summary(path: Path) -> dict[str, Any]:
    """What is in a recording; a file that is none says so and hides no other."""
    from station import recording

    try:
        return recording.summary(path)
    except recording.RecordingError as error:
        return {"recording": path.name, "error": str(error)}


def _recording(arguments: argparse.Namespace) -> int:
    from station import recording

    home = _home(arguments)
    if arguments.action == "list":
        found = [_summary(path) for path in sorted(home.recordings.glob("*.mcap"))]
        lines = [
            s.get("error") or f"{s['recording']}  {s['parts']} parts, {s['fail']} FAIL{'' if s['complete'] else ', cut'}" for s in found
        ]
        _print(arguments, found, "\n".join(lines) or f"no recordings in {home.recordings}")
    elif arguments.action == "show":
        summary = recording.summary(recording.locate(home.recordings, arguments.recording))
        _print(arguments, summary, "\n".join(f"{key:<12} {value}" for key, value in summary.items()))
    else:
        source = recording.locate(home.recordings, arguments.recording)
        work: Callable[[Path, Path], int] = recording.recover if arguments.action == "recover" else recording.export
        count = work(source, arguments.to)
        _print(arguments, {"parts": count, "to": str(arguments.to)}, f"{count} parts in {arguments.to}")
    return 0


# ---- training and its numbers


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _train(arguments: argparse.Namespace) -> int:
    from drivers.camera import CameraError
    from station import config, report, site
    from station.training import product
    from station.training.train import Settings

    home = _home(arguments)
    machine = config.load(home)
    settings = Settings(
        pretrained=arguments.pretrained,
        width=arguments.width,
        input_size=arguments.size,
        trunks=arguments.trunks,
        folds=arguments.folds,
        seed=arguments.seed,
        device=machine.device,
    )
    settings = settings.with_epochs(arguments.epochs) if arguments.epochs else settings
    good = None if arguments.good is None else tuple(name for name in arguments.good.split(",") if name)

    def camera(width: int, height: int, colour: bool) -> "Mapping[str, Feature]":
        try:
            return site.suggest_features(home, machine, width, height, colour)
        except CameraError as error:
            _progress(f"warning: the camera was not asked ({error}): add PixelFormat, OffsetX and OffsetY to the recipe by hand")
            return {"Width": width, "Height": height}

    document = product.train_recipe(home, arguments.recipe, arguments.data, settings, good, camera, _progress)
    if document is not None:  # of the processes of torchrun one has it
        _print(arguments, document, report.train_lines(document))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from datetime import datetime

    from station import config, report
    from station.training import contenders, evaluate, page

    home = _home(arguments)
    device = config.load(home).device
    evaluated = evaluate.evaluate_recipe(home, device, arguments.recipe, arguments.data, arguments.masks, arguments.boxes, _progress)
    comparison = contenders.compare_recipe(home, device, evaluated.recipe, arguments.data, _progress) if arguments.baselines else None
    document = {**evaluated.evaluation, **({"baselines": comparison} if comparison else {})}
    _print(arguments, document, report.evaluation_lines(document))
    if arguments.html:
        page.write(arguments.html, evaluated, arguments.data, comparison, datetime.now().astimezone())
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from station import config, report
    from station.training.tune import tune_recipe

    home = _home(arguments)
    document = tune_recipe(
        home,
        config.load(home).device,
        arguments.recipe,
        arguments.data,
        arguments.masks,
        arguments.boxes,
        arguments.escape,
        arguments.write,
        _progress,
    )
    _print(arguments, document, report.tune_lines(document))
    return FOUND if document["refused"] else 0


def _weights(arguments: argparse.Namespace) -> int:
    from station import config, report
    from station.training import weights_folder

    home = _home(arguments)
    if arguments.action == "list":
        rows = weights_folder.contents(home)
        _print(arguments, rows, report.weights_lines(rows) or f"no weights in {home.weights}")
        return WRONG if any("error" in row for row in rows) else 0
    if arguments.action == "verify":
        verified = weights_folder.verify(home, arguments.file, config.load(home).device)
        _print(arguments, verified, report.verified_lines(verified) or f"no weights in {home.weights}")
        return 0 if all(row["ok"] for row in verified) else FOUND
    placed = weights_folder.fetch() if arguments.action == "fetch" else weights_folder.import_file(home, arguments.file)
    _print(arguments, placed, "\n".join(f"{key:<14} {value}" for key, value in placed.items() if value))
    return 0


# ---- proofs


def _audit(arguments: argparse.Namespace) -> int:
    import time
    from dataclasses import asdict

    from station import ledger, report

    audit = asdict(ledger.audit(_home(arguments).ledger, arguments.since, now_ns=time.time_ns()))
    _print(arguments, audit, report.audit_lines(audit))
    return 0 if audit["ok"] else FOUND


def _cameras(arguments: argparse.Namespace) -> int:
    from station import cameras, config

    home = _home(arguments)
    looks = cameras.look(home, config.load(home), features=arguments.features, progress=_progress)
    document = cameras.document(looks, cameras.running_camera(home))
    _print(arguments, document, cameras.lines(document))
    if not any(one["devices"] for one in document):
        return UNREACHABLE
    return FOUND if any(one["error"] or one["remarks"] for one in document) else 0


def _doctor(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from station import doctor

    checks = [asdict(check) for check in doctor.examine(_home(arguments))]
    lines = [f"{c['status']:<5} {c['check']:<12} {c['detail']}" + (f"\n{'':19}fix: {c['fix']}" if c["fix"] else "") for c in checks]
    _print(arguments, checks, "\n".join(lines))
    return FOUND if any(check["status"] == "fail" for check in checks) else 0


def _bench(arguments: argparse.Namespace) -> int:
    import logging

    from station import config, logs, recipe
    from station.bench import line

    logs.configure(logging.WARNING)
    home = _home(arguments)
    settings = config.load(home)
    names = [arguments.recipe] if arguments.recipe else sorted(recipe.load_all(home.recipes)[0])
    if not names:
        raise recipe.RecipeError(f"{home.recipes}: there is no recipe to measure; make one with station train")
    document = line.bench(home, settings, recipe.find(home.recipes, names[0]), arguments.frames, _progress)
    _print(arguments, document, line.lines(document))
    return 0


# ---- the wire to the PLC


def _plc_watch(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict
    from datetime import datetime

    from station import plc_watch

    def tell(change: plc_watch.Change) -> None:
        at = datetime.now().astimezone()
        line = f"{at:%H:%M:%S.%f}"[:-3] + f"  {change.says:<8} {change.where:<10} {change.words}"
        _print(arguments, {"time": at.isoformat(timespec="milliseconds")} | asdict(change), line)

    plc_watch.follow(lambda: _ask(arguments, {"command": "wire"}), tell, arguments.seconds or float("inf"))
    return 0


def _plc_test(arguments: argparse.Namespace) -> int:
    from station import config, plc_test, site

    home = _home(arguments)
    settings = config.load(home)
    with site.only_plc(home, settings) as plc:
        document = plc_test.run(plc, settings.plc, arguments.seconds)
    _print(arguments, document, plc_test.lines(document))
    return (0 if document["ok"] else FOUND) if document["reached"] else UNREACHABLE


# ---- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="station", description="Inspection station: camera, D-VGG16 bilinear classifier, verdict to the PLC."
    )
    parser.add_argument("--home", help="folder with station.yaml, recipes/, weights/ and data/ (default: $STATION_HOME, else here)")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, to: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="one JSON document on stdout")
        added.add_argument("--home", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        added.set_defaults(run=run)
        return added

    def group(name: str, text: str) -> Any:
        return commands.add_parser(name, help=text, description=text).add_subparsers(metavar="ACTION", required=True, dest="action")

    run = command("run", _run, "run the station: inspect what the PLC triggers, until it is stopped")
    run.add_argument(
        "--parts", type=_count, metavar="N", help="stop after N parts and print the summary; exit 1 if the audit finds anything"
    )
    run.add_argument("--recipe", metavar="NAME", help="prepare this recipe; a simulated line makes parts for it only")
    run.add_argument(
        "--pictures", type=_pictures, metavar="WHAT", help="what a simulated line shows with --recipe: bulb, iron, or a folder"
    )
    command("status", _status, "state, recipe, counters, latency and alarms of the running station")

    recipes = group("recipe", "the products: what is there, is it fit to run, and the changeover")
    command("list", _recipe_list, "the recipes of this home", recipes)
    command("check", _recipe_check, "schema, hashes and self-test pictures", recipes).add_argument("recipe", nargs="?", metavar="NAME")
    command("prepare", _operate, "change the running line over to a recipe", recipes).add_argument("recipe", metavar="NAME")
    command("start", _operate, "begin to inspect (StartContinuous)", recipes)
    command("stop", _operate, "stop inspecting", recipes)

    command("reset", _operate, "the cause of an error was seen to: Reset").set_defaults(action="reset")

    inspect = command("inspect", _inspect, "inspect picture files as the line would")
    inspect.add_argument("recipe", metavar="RECIPE")
    inspect.add_argument("images", nargs="+", type=Path, metavar="IMAGE")

    _add_training(command, group)

    replay = command("replay", _replay, "the same frames through the same line; exit 1 when something is decided differently")
    replay.add_argument("recording", metavar="RECORDING", help="a file, or the name of one in data/recordings")
    replay.add_argument("--recipe", metavar="NAME", help="was -> would be: judge all parts under this recipe")

    recordings = group("recording", "the recordings on this machine")
    command("list", _recording, "what is there", recordings)
    command("show", _recording, "one recording in short", recordings).add_argument("recording")
    for name, text in (
        ("recover", "rewrite a cut recording into the whole file TO"),
        ("export", "frames as PNG and parts.jsonl into the folder TO"),
    ):
        action = command(name, _recording, text, recordings)
        action.add_argument("recording")
        action.add_argument("to", type=Path, metavar="TO")

    audit = command("audit", _audit, "every trigger exactly one verdict, every verdict acknowledged: proof or findings, from the ledger")
    audit.add_argument(
        "--since", type=_time, metavar="TIME", help="only parts answered since then: 2026-11-22, 2026-11-22T06:00 or a duration: 8h, 30m"
    )

    wire = group("plc", "the wire to the PLC in plain words")
    watch = command(
        "watch", _plc_watch, "what PLC and station say to each other, change by change, until Ctrl-C; the station must run", wire
    )
    watch.add_argument("--seconds", type=_count, metavar="N", help="stop after N seconds")
    dry = command("test", _plc_test, "a dry handshake: does the PLC answer, and rightly? The station must not run", wire)
    dry.add_argument("--seconds", type=_count, metavar="N", default=3, help="how long (default: %(default)s)")

    command(
        "cameras", _cameras, "the cameras there are, and through which GenTL producer; exit 1 if a producer fails, 3 without any camera"
    ).add_argument("--features", action="store_true", help="open each and show its features too")
    command("doctor", _doctor, "is this machine fit to run?")
    bench = command("bench", _bench, "how fast a recipe is on this machine, against its peers, as ratios in one run")
    bench.add_argument("recipe", nargs="?", metavar="RECIPE", help="default: the first that is there")
    bench.add_argument(
        "--frames", type=_count, default=50, help="parts of each camera; memory is judged from 1000 on (default: %(default)s)"
    )
    return parser


def _add_training(command: Callable[..., argparse.ArgumentParser], group: Callable[[str, str], Any]) -> None:
    train = command("train", _train, "from a folder of labelled pictures, a folder a class, to weights and a recipe that runs")
    train.add_argument("recipe", metavar="RECIPE", help="the recipe to update, or the name of one to create")
    train.add_argument("data", type=Path, metavar="DATA")
    train.add_argument("--pretrained", default="imagenet", help="imagenet, none, or a file with a VGG16 trunk (default: %(default)s)")
    train.add_argument("--good", metavar="CLASSES", help="the classes that may pass, with commas (default: those called good or ok)")
    train.add_argument(
        "--trunks", type=int, choices=(1, 4), default=1, help="1: phase 1 only; 4: phase 2 as well, for a GPU (default: %(default)s)"
    )
    train.add_argument(
        "--folds", type=int, default=0, metavar="K", help="let a K-fold cross-validation choose head and epochs, then train on all pictures"
    )
    train.add_argument("--epochs", type=_count, help="at most so many in the last phase that runs (default: the settings')")
    train.add_argument("--size", type=int, default=448, help="input pixels a side (default: %(default)s)")
    train.add_argument("--width", type=float, default=1.0, help="share of VGG16's channels, 1 if pretrained (default: %(default)s)")
    train.add_argument("--seed", type=int, default=0)

    evaluate = command("evaluate", _evaluate, "what a recipe is worth on labelled pictures: confusion, Eq. 7-11, bounds, localization")
    _add_judged(evaluate)
    evaluate.add_argument("--html", type=_new_file, metavar="FILE", help="also write a page that stands alone")
    evaluate.add_argument("--baselines", action="store_true", help="cross-validate the paper's baselines beside ours on these pictures")

    tune = command("tune", _tune, "probability limit and heat-map threshold from data, with the evidence; exit 1 when it refuses")
    _add_judged(tune)
    tune.add_argument("--escape", type=_share, default=0.01, metavar="SHARE", help="wanted bound of the escape rate (default: %(default)s)")
    tune.add_argument("--write", action="store_true", help="write what was found into the recipe")

    weights = group("weights", "pretrained and trained weights")
    command("list", _weights, "the weights of this home, and which recipes name them", weights)
    command("fetch", _weights, "download VGG16's ImageNet weights, or say how to bring them to a machine without internet", weights)
    command("import", _weights, "take over a file from another machine", weights).add_argument("file", type=Path, metavar="FILE")
    command("verify", _weights, "hashes and golden scores, on this machine", weights).add_argument("file", nargs="?", metavar="NAME")


def _add_judged(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE")
    command.add_argument("data", type=Path, metavar="DATA", help="a folder of pictures a class")
    truth = command.add_mutually_exclusive_group()
    truth.add_argument("--masks", type=Path, metavar="DIR", help="where the defects are: a PNG a picture, above 0 is defect")
    truth.add_argument("--boxes", type=Path, metavar="DIR", help="where the defects are: a Pascal VOC file a picture")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share; write a number above 0 and below 1, such as 0.01")
    return share


def _new_file(text: str) -> Path:
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {Path(text).parent}; make it first")
    return Path(text)


def _pictures(text: str) -> str:
    return text if text in {"bulb", "iron"} else str(Path(text).resolve())


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no count; write a whole number from 1")
    return int(text)


def _time(text: str) -> int:
    """Nanoseconds since 1970 of a date, a date with time (local), or a duration back from now."""
    import re
    from datetime import datetime, timedelta

    if match := re.fullmatch(r"(\d+)([smhd])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    try:
        moment = datetime.now() - timedelta(**{unit: int(match[1])}) if match else datetime.fromisoformat(text)
        return int(moment.timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} is no time; write 2026-11-22, 2026-11-22T06:00 or 8h") from None


if __name__ == "__main__":
    sys.exit(main())
