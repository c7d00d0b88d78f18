"""The full counts of every exhaustive check: python -m benchmarks.stress [NAME ...] prints one JSON object a check."""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Checks that count their own cases and print them as JSON.
COUNTED = {
    "label_proof": ["-m", "tests.composition.label_proof"],
    "data_fuzz": ["-m", "tests.data.fuzz"],
    "attacks": ["-m", "tests.registry.attacks"],
    "registry_kills": ["-m", "tests.registry.kills"],
    "pipeline_kills": ["-m", "tests.registry.pipeline_kills"],
}
# Test folders whose tests marked stress, and those by hypothesis, are the full counts.
MARKED = ("experiments", "composition", "data", "evaluation", "registry", "tracking", "training", "tuning")
SEED = 0


def counted(arguments: list[str]) -> dict[str, Any]:
    """Run a check that prints its result."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if not lines:
        return {"cases": 0, "failures": [f"ended {done.returncode}: {done.stderr[-500:]}"]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def marked(folder: str) -> dict[str, Any]:
    """Run the tests of a folder that are marked stress, and those with examples by hypothesis."""
    with TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        # Tests with examples by hypothesis run too, with more of them (tests/conftest.py).
        chosen = ["-m", "stress or hypothesis", "--hypothesis-profile=stress", f"tests/{folder}"]
        command = [sys.executable, "-m", "pytest", "-q", *chosen, f"--junitxml={report}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        suite = next(ElementTree.parse(report).iter("testsuite"))
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    broken = [case.get("name") for case in suite.iter("testcase") if case.find("error") is not None]
    return {
        "cases": int(suite.get("tests", 0)) - int(suite.get("skipped", 0)),
        "skipped": int(suite.get("skipped", 0)),
        "failures": failed + broken,
    }


def main(names: list[str]) -> int:
    """Run the named checks, or all; the exit code is 1 when one failed."""
    checks = {name: lambda arguments=arguments: counted(arguments) for name, arguments in COUNTED.items()}
    checks |= {f"tests/{folder}": lambda folder=folder: marked(folder) for folder in MARKED}
    failed = False
    for name in names or checks:
        start = time.monotonic()
        result = {"seed": SEED, **checks[name](), "name": name, "seconds": round(time.monotonic() - start, 1)}
        print(json.dumps(result), flush=True)
        failed = failed or bool(result["failures"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
