"""`python -m drivers.simulated`: the simulated cameras alone, the line alone, pictures of its parts, and the cameras' producer.

cameras                   what the producer offers
stream SERIAL             frames of one camera, each with what is wrong with it; faults on the way
tell SERIAL ORDER         an order to a camera that any program has open
line | parts | build      the PLC and its conveyor; labelled pictures; the producer compiled
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivers.simulated.line import BatchSpec

PROGRESS_S = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Runs one of the commands and returns the exit code: 0 fine, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m drivers.simulated", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    line = commands.add_parser("line", help="run PLC and conveyor for a station; the counts come as JSON at the end, or on SIGTERM")
    line.set_defaults(run=_line)
    line.add_argument("--port", type=Path, required=True, help="where the station finds its serial port: a link that is made")
    line.add_argument("--link", choices=("modbus-rtu", "ascii"), default="modbus-rtu", help="the dialect (%(default)s)")
    line.add_argument("--directory", type=Path, required=True, help="the camera's scene directory")
    line.add_argument("--serial", required=True, help="the camera's serial number")
    line.add_argument("--batch", action="append", required=True, metavar="RECIPE:PICTURES:PARTS", help="PICTURES: a product or a folder")
    line.add_argument("--good", action="append", metavar="CLASS", help="a folder's good class (default: good)")
    line.add_argument("--keep-running", action="store_true", help="feed the old product until the next recipe is prepared")
    line.add_argument("--sorted", action="store_true", help="take a folder's pictures sorted")
    line.add_argument("--defective", type=float, default=0.08, help="probability of a defect in a made part (%(default)s)")
    line.add_argument("--seed", type=int, default=1)
    line.add_argument("--noise", type=int, default=0, help="amplitude of the camera's noise, grey levels (%(default)s)")
    line.add_argument("--interval", type=float, default=0.05, help="between two parts, s (%(default)s)")
    line.add_argument("--part-timeout", type=float, default=2.0, help="for the answer to a part, s (%(default)s)")
    line.add_argument("--deadline-ms", type=int, default=1000, help="the recipes' deadline (%(default)s)")
    parts = commands.add_parser("parts", help="write labelled pictures of made parts")
    parts.set_defaults(run=_parts)
    parts.add_argument("directory", type=Path)
    parts.add_argument("--product", required=True)
    parts.add_argument("--count", type=int, required=True)
    parts.add_argument("--seed", type=int, default=1)
    build = commands.add_parser("build", help="compile the simulated cameras' GenTL producer")
    build.set_defaults(run=_build)
    _add_cameras(commands)
    return parser


def _add_cameras(commands: Any) -> None:
    cameras = commands.add_parser("cameras", help="list the simulated cameras")
    cameras.set_defaults(run=_cameras)
    stream = commands.add_parser("stream", help="fetch frames and say what is wrong with each; the counts come as JSON at the end")
    stream.set_defaults(run=_stream)
    stream.add_argument("serial", help="or the camera's id")
    stream.add_argument("--frames", type=int, default=20, help="how many attempts to fetch one (%(default)s)")
    stream.add_argument("--set", action="append", default=[], metavar="FEATURE=VALUE", help="a feature, such as PixelFormat=BayerRG8")
    stream.add_argument("--trigger", choices=("software", "line0"), help="trigger each frame; otherwise the camera runs free")
    stream.add_argument("--order", action="append", default=[], metavar="N:ORDER", help='given before frame N, such as "5:drop 2"')
    order = commands.add_parser("tell", help="give an order to a camera that is open in another program")
    order.set_defaults(run=_order)
    order.add_argument("serial")
    order.add_argument("order", nargs="+", help="its word and numbers, such as: drop 2")


def _line(options: argparse.Namespace) -> int:
    from drivers.simulated.line import LineSpec, open_line  # noqa: PLC0415 - what one command needs, the others need not have

    good = tuple(options.good or ["good"])
    spec = LineSpec(
        port=options.port,
        directory=options.directory,
        serial=options.serial,
        batches=tuple(_batch(text, good, options.keep_running) for text in options.batch),
        deadline_ms=options.deadline_ms,
        part_timeout_s=options.part_timeout,
        link=options.link,
        interval_s=options.interval,
        defective=options.defective,
        seed=options.seed,
        shuffle=not options.sorted,
        noise=options.noise,
    )
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    signal.signal(signal.SIGINT, lambda number, _: ended.append(number))
    with open_line(spec) as line:
        print(f"the station's port is {spec.port}", file=sys.stderr)
        told_s = time.monotonic()
        while not (line.finished or ended):
            line.turn()
            if time.monotonic() - told_s > PROGRESS_S:
                told_s = time.monotonic()
                _tell(line.counts())
        counts = line.counts()
    _tell(counts)
    print(json.dumps(counts, indent=2))
    return 0


def _batch(text: str, good: tuple[str, ...], keep_running: bool) -> "BatchSpec":
    from drivers.simulated.line import BatchSpec  # noqa: PLC0415 - as above

    recipe, _, rest = text.partition(":")
    pictures, _, parts = rest.rpartition(":")
    if not (recipe.isdecimal() and pictures and parts.isdecimal()):
        raise ValueError(f"--batch {text}: write RECIPE:PICTURES:PARTS, such as 1:bulb:100")
    return BatchSpec(int(recipe), pictures, int(parts), good, keep_running)


def _tell(counts: dict[str, Any]) -> None:
    print(", ".join(f"{name} {counts[name]}" for name in ("triggers", "passed", "rejected", "timeouts")), file=sys.stderr)


def _parts(options: argparse.Namespace) -> int:
    from drivers.simulated.parts import write_folder  # noqa: PLC0415 - as above

    write_folder(options.directory, options.product, options.count, options.seed)
    return 0


def _build(_: argparse.Namespace) -> int:
    from drivers.simulated.build import BuildError, build  # noqa: PLC0415 - as above

    try:
        print(build())
    except BuildError as error:
        raise ValueError(str(error)) from error
    return 0


def _cameras(_: argparse.Namespace) -> int:
    from drivers.simulated.alone import list_cameras  # noqa: PLC0415 - as above

    print(json.dumps(list_cameras(), indent=2))
    return 0


def _stream(options: argparse.Namespace) -> int:
    from drivers.simulated.alone import StreamSpec, stream  # noqa: PLC0415 - as above

    spec = StreamSpec(
        options.serial,
        options.frames,
        tuple(_pair(text, "=", "--set") for text in options.set),
        options.trigger,
        tuple((int(number), order) for number, order in (_pair(text, ":", "--order") for text in options.order)),
    )
    print(json.dumps(stream(spec, print), indent=2))
    return 0


def _pair(text: str, separator: str, option: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not (left and found and right):
        raise ValueError(f"{option} {text}: write the two parts with {separator} between them")
    return left, right


def _order(options: argparse.Namespace) -> int:
    from drivers.simulated.scene import simulated_directory, tell  # noqa: PLC0415 - as above

    tell(simulated_directory(), options.serial, " ".join(options.order))
    return 0


if __name__ == "__main__":
    sys.exit(main())
