"""Mutation testing: python -m benchmarks.mutation [MODULE ...] prints one JSON object a module.

Each mutant is tested in a process that is forked after the libraries were imported; no file is changed.
``benchmarks/mutation.yaml`` names the tests of each module and the mutants that change nothing.
"""

import argparse
import gc
import importlib
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest
import yaml
from hypothesis import settings
from scipy.stats import binomtest

from benchmarks.mutants import mutants_of

TABLE = Path(__file__).with_suffix(".yaml")
LEAST_KILLED = 0.95
FORK = multiprocessing.get_context("fork")


class Order:
    """Pytest plugin: the tests that run the mutated line come first, the fastest first; without a line, finds them."""

    def __init__(self, path: str, covering: dict[int, set[str]], seconds: dict[str, float], line: int = 0) -> None:
        self.path, self.covering, self.seconds, self.line, self.test = path, covering, seconds, line, ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests."""
        first = self.covering.get(self.line, set())
        items.sort(key=lambda item: (item.nodeid not in first, self.seconds.get(item.nodeid, 0.0)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measure a test."""
        self.test, start = item.nodeid, time.process_time()
        if not self.line:
            threading.settrace(self._trace)
            sys.settrace(self._trace)
        result = yield
        sys.settrace(None)
        self.seconds[item.nodeid] = time.process_time() - start
        return result

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != self.path:
            return None
        self.covering[frame.f_lineno].add(self.test)
        return self._trace


def run_tests(module: str, tests: list[str], code: str, order: Order) -> int:
    """Exit code of pytest with this code in the module's place; for a process that ends with it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    settings.register_profile("mutation", derandomize=True, database=None)
    settings.load_profile("mutation")
    spec = importlib.util.spec_from_file_location(module, order.path)
    assert spec is not None
    sys.modules[module] = mutated = importlib.util.module_from_spec(spec)
    exec(compile(code, order.path, "exec"), mutated.__dict__)
    package, _, name = module.rpartition(".")
    setattr(importlib.import_module(package), name, mutated)
    options = ["-x", "-q", "-m", "not stress and not browser", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return int(pytest.main([*options, *tests], plugins=[order]))


def forked(function: Callable[[], Any], seconds: int | None = None) -> Any:
    """Value of the function in a process of its own: None when that dies, ``timeout`` after ``seconds`` of its CPU."""
    receiver, sender = FORK.Pipe(duplex=False)

    def work() -> None:
        if seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        sender.send(function())

    process = FORK.Process(target=work)
    process.start()
    sender.close()
    try:  # one that waits for ever uses no CPU
        return receiver.recv() if receiver.poll(60 + 20 * seconds if seconds is not None else None) else "timeout"
    except EOFError:
        process.join()
        return "timeout" if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL) else None
    finally:
        process.kill()
        process.join()


def mutation_row(
    module: str, tests: list[str], equivalent: list[dict[str, str]], size: int, seed: int, part: str
) -> dict[str, Any]:
    """Test a random sample of a module's mutants, for size 0 all; of these the part, such as 1/2, for other cores.

    For a process of its own, as it imports whatever the tests import.
    """
    start, path = time.monotonic(), Path(*module.split(".")).with_suffix(".py").resolve()
    source = path.read_text()

    def measured() -> tuple[int, dict[int, set[str]], dict[str, float], list[str]]:
        order = Order(str(path), defaultdict(set), {})
        return run_tests(module, tests, source, order), dict(order.covering), order.seconds, list(sys.modules)

    place = TemporaryDirectory()  # packages and registries that tests/registry/conftest.py makes, once for all mutants
    os.environ["SUPCAM_TESTS_KEEP"] = place.name
    result, covering, seconds, loaded = forked(measured)
    if result != 0:
        raise SystemExit(f"pytest ended {result} without a mutant: {' '.join(tests)}")
    os.environ["SUPCAM_TESTS_KEPT"] = os.environ.pop("SUPCAM_TESTS_KEEP")
    sys.modules[module] = None  # type: ignore[assignment]  # what imports it fails here: each process imports that
    for name in loaded:
        if not name.startswith(("tests", "__main")):
            with suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # the collections of each process then skip what is imported here
    known = {(one["in"], one["old"], one["new"]) for one in equivalent}
    mutants = mutants_of(source)
    stale = known - {(one.place, one.old, one.new) for one in mutants}
    changing = [one for one in mutants if (one.place, one.old, one.new) not in known]
    first, parts = map(int, part.split("/"))
    chosen = random.Random(seed).sample(changing, min(size or len(changing), len(changing)))[first - 1 :: parts]
    limit, counts = int(10 + 5 * sum(seconds.values())), {"killed": 0, "timeout": 0, "survived": 0}
    for one in chosen:
        result = forked(
            partial(run_tests, module, tests, one.code, Order(str(path), covering, seconds, one.line)), limit
        )
        counts[{0: "survived", "timeout": "timeout"}.get(result, "killed")] += 1
        if result == 0:
            print(f"survived, line {one.line}: in: {one.place}\n  - {one.old}\n  + {one.new}", file=sys.stderr)
    place.cleanup()
    caught = counts["killed"] + counts["timeout"]
    row = {"name": module, "mutants": len(mutants), "equivalent": len(mutants) - len(changing), "tested": len(chosen)}
    row |= {"part": part} | counts | {"value": round(caught / len(chosen), 4), "unit": "share killed"}
    if len(chosen) < len(changing):
        interval = binomtest(caught, len(chosen)).proportion_ci(method="wilson")
        row |= {"seed": seed, "low": round(interval.low, 4), "high": round(interval.high, 4)}
    return row | {"stale": sorted(stale), "seconds": round(time.monotonic() - start)}


def main(arguments: list[str] | None = None) -> int:
    """Test the named modules, or all of the table; the exit code is 1 when one has fewer than 95 % killed."""
    table = yaml.safe_load(TABLE.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="of benchmarks/mutation.yaml; by default all")
    parser.add_argument("--sample", type=int, default=100, help="mutants of each module, 0 for all; by default 100")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 for a core each; by default 1/1, all")
    options, failed = parser.parse_args(arguments), False
    for module in options.modules or table:
        entry = table[module]
        given = module, entry["tests"], entry.get("equivalent", []), options.sample, options.seed, options.part
        row = forked(partial(mutation_row, *given))
        print(json.dumps(row), flush=True)
        failed = failed or row["value"] < LEAST_KILLED or bool(row["stale"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
